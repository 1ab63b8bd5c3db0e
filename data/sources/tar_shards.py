"""WebDataset tar shards: members of one key are a sample, its video by suffix, its class in `.cls` or `.json`.

Only headers are read when a shard is opened, videos are later read where they lie; nothing is extracted, decompressed
or unpickled. Layout: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from tokenreel.data.sources.base import VideoEntry, VideoSource
from tokenreel.data.sources.encoded import EncodedSource
from tokenreel.data.sources.file_slice import FileSlice
from tokenreel.data.sources.location import Location
from tokenreel.data.video import SUFFIXES as VIDEO_SUFFIXES
from tokenreel.errors import DataError

_PICKLED = frozenset(
    (".pkl", ".pickle", ".pyd", ".pth", ".pt", ".joblib", ".dill")
)  # loaders would run what is in them
_TEXT_LIMIT = 1 << 20  # bytes of a .cls or .json
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_END = bytes(512)  # a tar file ends in blocks of zeros; without one it was cut


@dataclass
class _Sample:
    """The members of one key: where the video's bytes are, and what is said of it."""

    shard: Path
    video: tuple[int, int] | None = None  # offset and size in the shard, bytes
    label: str | None = None
    others: list[str] = field(default_factory=list)


class TarShards(EncodedSource):
    """Ids are shard/key."""

    def __init__(self, location: str, shards: list[Path]) -> None:
        self._samples: dict[str, _Sample] = {}
        for shard in shards:
            for key, sample in _index(shard).items():
                name = f"{shard.stem}/{key}"
                if name in self._samples:
                    raise DataError(f"{location}: {name} comes twice; shards must have different names")
                if sample.video is not None:
                    self._samples[name] = sample
        if not self._samples:
            raise DataError(f"{location}: its {len(shards)} tar shards hold no video ({', '.join(VIDEO_SUFFIXES)})")
        super().__init__(location, (VideoEntry(name, sample.label) for name, sample in self._samples.items()))

    def _file(self, index: int) -> BinaryIO:
        sample = self._samples[self.entries[index].id]
        assert sample.video is not None
        return cast(BinaryIO, FileSlice(sample.shard, *sample.video))


def open_tar_shards(location: Location) -> VideoSource | None:
    """One shard, shards with a range as in `train-{000..123}.tar`, or a folder of shards."""
    shards = location.files_below(".tar")
    if location.file(".tar") or (not location.path.exists() and _RANGE.search(str(location.path))):
        shards = _expand(str(location.path))
    if not shards:
        return None
    location.options()  # there are none: a container states its own times
    return TarShards(location.text, shards)


def _expand(pattern: str) -> list[Path]:
    """'train-{000..002}.tar' -> three paths; without a range, the pattern itself. DataError if one is missing."""
    found = _RANGE.search(pattern)
    if found is None:
        if not Path(pattern).is_file():
            raise DataError(f"{pattern}: no such tar shard")
        return [Path(pattern)]
    first, last = found.groups()
    if int(last) < int(first):
        raise DataError(f"{pattern}: the range {found[0]} runs backwards")
    names = (
        f"{pattern[: found.start()]}{i:0{len(first)}}{pattern[found.end() :]}" for i in range(int(first), int(last) + 1)
    )
    return [path for name in names for path in _expand(name)]


def _index(shard: Path) -> dict[str, _Sample]:
    """The samples of a shard by key. Raises DataError for a shard that is cut, and for hostile members."""
    samples: dict[str, _Sample] = {}
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in _members(shard, tar):
                key, suffix = _key_and_suffix(member.name)
                _take(shard, file, member, suffix, samples.setdefault(key, _Sample(shard)))
            _require_end(shard, file, tar)
    except (tarfile.TarError, EOFError, OSError, OverflowError) as error:
        raise DataError(f"{shard} cannot be read as an uncompressed tar file: {error}") from error
    return samples


def _members(shard: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The plain files. Raises DataError for anything that a data set has no use for."""
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\0" in member.name or len(member.name) > 255:
            raise DataError(f"{shard}: member {member.name[:80]!r} leads out of the shard; nothing of it was read")
        if member.isdir() or path.name.startswith("."):  # hidden, as the ._x.mp4 that macOS adds; it has no key
            continue
        if not member.isreg() or member.issparse():
            raise DataError(f"{shard}: member {member.name!r} is a link, a device or sparse; only plain files are read")
        suffixes = {suffix.lower() for suffix in path.suffixes}
        if suffixes & _PICKLED:
            raise DataError(
                f"{shard}: member {member.name!r} is a pickle, which could run code; take it out of the shard"
            )
        yield member


def _key_and_suffix(name: str) -> tuple[str, str]:
    """'a/b.c.mp4' -> ('a/b', '.mp4'): WebDataset's key ends at the first dot of the file's name."""
    path = PurePosixPath(name)
    return (path.parent / path.name.split(".")[0]).as_posix(), path.suffix.lower()


def _take(shard: Path, file: BinaryIO, member: tarfile.TarInfo, suffix: str, sample: _Sample) -> None:
    """Notes what a member adds to its sample; suffixes that are not ours are left alone."""
    if suffix in VIDEO_SUFFIXES:
        if sample.video is not None:
            raise DataError(f"{shard}: member {member.name!r} is the second video of its sample")
        sample.video = member.offset_data, member.size
    elif suffix in (".cls", ".json"):
        if member.size > _TEXT_LIMIT:
            raise DataError(f"{shard}: member {member.name!r} has {member.size} bytes; the limit is {_TEXT_LIMIT}")
        position = file.tell()
        file.seek(member.offset_data)
        label = _label(shard, member.name, suffix, file.read(member.size))
        file.seek(position)
        sample.label = label if label is not None else sample.label


def _label(shard: Path, name: str, suffix: str, data: bytes) -> str | None:
    try:
        text = data.decode().strip()
        said = json.loads(text) if suffix == ".json" else text
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shard}: member {name!r} cannot be read as text: {error}") from error
    label = said.get("label") if isinstance(said, dict) else None if suffix == ".json" else said
    return None if label in (None, "") else str(label)


def _require_end(shard: Path, file: BinaryIO, tar: tarfile.TarFile) -> None:
    """Raises DataError where the shard was cut, which tarfile overlooks between members."""
    last = tar.getmembers()[-1] if tar.getmembers() else None
    end = 0 if last is None else last.offset_data + (last.size + 511) // 512 * 512
    file.seek(end)
    if file.read(512) != _END:
        raise DataError(f"{shard} is cut: it does not end as a tar file does; fetch it again")
