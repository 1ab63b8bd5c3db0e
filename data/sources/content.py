"""Whether a video's file is still the one that a plan was made from: its size, and a hash of blocks of it.

Blocks, not all bytes, so that it costs little beside decoding; they notice another file under the same name, not every
flipped bit. Times are not used: a copy on another machine has others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenreel.errors import DataError

BLOCK_BYTES = 16 << 10
BLOCK_SPACING = 4 << 20  # bytes of a file for each block
MIN_BLOCKS, MAX_BLOCKS = 3, 256  # of one file, the first and the last of it among them
MAX_HASHED_PARTS = 16  # of a video in many files, whose sizes all count


@dataclass(frozen=True)
class FilePart:
    """Bytes [start, start + size) of a file that holds a video, or a part of one; to its end if `size` is None."""

    path: Path
    start: int = 0
    size: int | None = None


@dataclass(frozen=True)
class Content:
    """What a plan states of a video's files."""

    bytes: int
    sha256: str  # hex, of the sizes and of blocks


def content_of(parts: Sequence[FilePart]) -> Content | None:
    """The content of a video in `parts`; None if it is in no file. Raises DataError if one cannot be read."""
    if not parts:
        return None
    try:
        found = [(part, part.path.stat()) for part in parts]
        sizes = [status.st_size - part.start if part.size is None else part.size for part, status in found]
        digest = hashlib.sha256(repr(sizes).encode())
        for place in _evenly(len(parts) - 1, MAX_HASHED_PARTS):
            part, status = found[place]
            version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            digest.update(_digest(part.path, part.start, sizes[place], version))
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    return Content(sum(sizes), digest.hexdigest())


@lru_cache(maxsize=1024)
def _digest(path: Path, start: int, size: int, version: tuple[int, ...]) -> bytes:
    """A hash of blocks of a part. `version` tells files of one name apart: many videos may be in one file."""
    blocks = min(max(MIN_BLOCKS, size // BLOCK_SPACING), MAX_BLOCKS)
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for offset in _evenly(max(0, size - BLOCK_BYTES), blocks):
            file.seek(start + offset)
            digest.update(file.read(min(BLOCK_BYTES, size)))
    return digest.digest()


def _evenly(last: int, count: int) -> list[int]:
    """At most `count` different numbers from 0 to `last`, both among them, evenly spaced."""
    return sorted({last * i // (count - 1) for i in range(count)})
