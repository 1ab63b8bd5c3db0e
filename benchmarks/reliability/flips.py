"""Single bytes flipped and files cut, in every file of every kind of folder that we write: noticed, or harmless.

Harmless means that the result is equal, so that the byte is not computed with. Documents that are flipped may still be
JSON; all their bytes are tried before positions in large files are drawn at random.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenreel.benchmarks.reliability.subjects import Judge, Subject, files_of, subjects
from tokenreel.benchmarks.reliability.tally import Tally

FLIPS, CUTS = 320, 12  # of one file at most; files have few bytes here
Damage = tuple[str, bytes | None]  # its name, and the content (None: the file is gone)


def run(share: float, folder: Path) -> list[Tally]:
    return [damage_each_file(subject, share) for subject in subjects(folder)]


def damage_each_file(subject: Subject, share: float) -> Tally:
    tally, judge, files = Tally(f"flips and cuts: {subject.name}"), Judge(subject), files_of(subject.folder)
    work = subject.folder.with_name("damaged")
    shutil.copytree(subject.folder, work, dirs_exist_ok=True)
    for name, content in files.items():
        for damage, damaged in damages(name, content, share):
            write(work / name, damaged)
            tally.add(*_named(judge(work), f"{name}, {damage}"))
            if subject.changes:
                restore(work, files)
        write(work / name, content)
    shutil.rmtree(work)
    return tally


def _named(judged: tuple, where: str) -> tuple:
    outcome, what = judged
    return outcome, f"{where}: {what}"


def damages(name: str, content: bytes, share: float) -> Iterator[Damage]:
    """Flips of one bit or of a whole byte, cuts, more bytes at the end, an empty and an absent file."""
    draw = random.Random(name)
    count = max(1, round(share * min(len(content), FLIPS))) if content else 0
    for position in sorted(draw.sample(range(len(content)), count)):
        mask = draw.choice((1, 2, 4, 8, 16, 32, 64, 128, 255))
        flipped = bytearray(content)
        flipped[position] ^= mask
        yield f"byte {position} ^ {mask}", bytes(flipped)
    for _ in range(max(1, round(share * CUTS)) if len(content) > 1 else 0):
        length = draw.randrange(1, len(content))
        yield f"cut to {length} bytes", content[:length]
    yield "two bytes more", content + b"\0\1"
    yield "empty", b""
    yield "gone", None


def write(path: Path, content: bytes | None) -> None:
    """As another inode: a file that a process has hashed need not be hashed again."""
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def restore(folder: Path, files: Mapping[str, bytes]) -> None:
    """The folder as it was: what a use of it has written is undone."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        name = path.relative_to(folder).as_posix()
        if name not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            write(path, content)
