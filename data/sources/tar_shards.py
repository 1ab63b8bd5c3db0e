"""WebDataset tar shards: members with one key are a sample, its video by suffix, its class in `.cls` or `.json`.

Names of shards and grouping of members follow webdataset: a key ends at the first dot of the file name, so `a.left.mp4`
and `a.right.mp4` are one sample, which may contain one video only; dots in folder names are ignored; a name without a
dot belongs to no sample; members of a sample are adjacent. Its reader, which reads whole members, runs `pipe:`
locations and can unpickle, is not used: only headers are read when a shard is opened, and videos are later read in
place. Layout: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn, cast

from tokenreel.data.sources.base import VideoEntry, VideoSource
from tokenreel.data.sources.content import FilePart
from tokenreel.data.sources.encoded import EncodedSource
from tokenreel.data.sources.file_slice import FileSlice
from tokenreel.data.sources.folder_splits import OUTSIDE, places_by_container
from tokenreel.data.sources.inventory import Inventory
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.same_files import taken_once
from tokenreel.data.video.container import SUFFIXES as VIDEO_SUFFIXES
from tokenreel.errors import DataError, shown

_PICKLED = frozenset((".pkl", ".pickle", ".pyd", ".pth", ".pt", ".joblib", ".dill"))  # loading them could run code
MAX_SHARDS = 1 << 20
_TEXT_LIMIT = 1 << 20  # bytes of a .cls or .json
_HEADER_LIMIT = 1 << 16  # bytes of a member's extended header, which tarfile reads as a whole
_NAME_BYTES, _PATH_LENGTH = 255, 4096  # of what file systems can hold
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # of a URL
_PATTERN = re.compile(r"\.tar($|[,}]|::)")  # in a location that names shards
_METADATA = re.compile(r"__[^/]*__($|/)")  # members that webdataset skips
NO_VIDEO = "sample-without-video"
_END = bytes(512)  # a tar file ends in blocks of zeros; without one it is truncated


@dataclass(frozen=True)
class Member:
    """The position of a member in its shard."""

    name: str
    offset: int  # bytes
    size: int  # bytes

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()


@dataclass(frozen=True)
class _Video:
    shard: Path
    member: Member
    label: str | None


class TarShards(EncodedSource):
    """Videos in tar shards. Ids are shard/key. `shards`: with the split that the folder or name of each one states."""

    def __init__(self, location: str, shards: Mapping[Path, str | None]) -> None:
        self._videos: dict[str, _Video] = {}
        splits: dict[str, str | None] = {}
        without_video: list[str] = []
        for shard, split in shards.items():
            for key, video in _videos(shard):
                name = f"{shard.stem}/{key}"
                if video is None:
                    without_video.append(name)
                    continue
                if name in self._videos:
                    raise DataError(f"{location}: {name} appears twice; give the shards different names")
                self._videos[name], splits[name] = video, split
        if not self._videos:
            raise DataError(f"{location}: its {len(shards)} tar shards contain no video ({', '.join(VIDEO_SUFFIXES)})")
        super().__init__(location, (VideoEntry(name, v.label, splits[name]) for name, v in self._videos.items()))
        self.inventory = Inventory.of({NO_VIDEO: without_video})

    def _file(self, index: int) -> BinaryIO:
        video = self._videos[self.entries[index].id]
        return cast(BinaryIO, FileSlice(video.shard, video.member.offset, video.member.size))

    def parts(self, index: int) -> list[FilePart]:
        video = self._videos[self.entries[index].id]
        return [FilePart(video.shard, video.member.offset, video.member.size)]


def expand_shards(pattern: str) -> list[Path]:
    """The paths of a pattern in webdataset's notation: train-{000..002}.tar, {a,b}, and :: between several patterns.

    Raises DataError if a shard is missing, and for URLs and pipes, which webdataset would open.
    """
    for part in pattern.split("::"):
        if _SCHEME.match(part):
            raise DataError(
                f"{pattern}: tar shards are read from local files, and {part!r} is a URL or a pipe: download it first "
                "(a local name with a colon is written as ./name)"
            )
        if "${" in part:
            raise DataError(f"{pattern}: variables are not expanded: write the full path of the shards")
        if (count := _names_at_least(part)) > MAX_SHARDS:
            raise DataError(f"{shown(part)} names {count:.3g} shards; there may be {MAX_SHARDS:,}: check its ranges")
    from webdataset.shardlists import expand_urls  # imports torch, unless that is hidden as in decode workers

    try:
        shards = [Path(name) for name in expand_urls(pattern)]
    except ValueError as error:
        raise DataError(f"{pattern}: {error}; escape a brace in a name as \\{{") from error
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        others = f" (and {len(missing) - 1} others of the {len(shards)} named)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}: no such tar shard{others}")
    return shards


def _names_at_least(pattern: str) -> float:
    """How many names the innermost braces make: {0..9} ten, {a,b} two, all of them multiplied."""
    count = 1.0
    for inner in re.findall(r"\{([^{}]*)\}", pattern):
        ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", inner)
        count *= abs(float(ends[2]) - float(ends[1])) + 1 if ends else inner.count(",") + 1
    return count


def open_tar_shards(location: Location) -> VideoSource | None:
    """One shard, several in webdataset's notation (`train-{000..123}.tar`), or a folder of shards."""
    pattern = location.without_options
    if location.path.is_dir():
        return _open_folder(location)
    if location.path.exists():  # braces in its name are meant
        shards = [location.path] if location.file(".tar") else []
    else:
        shards = expand_shards(pattern) if _PATTERN.search(pattern) else []
    if not shards:
        return None
    common = os.path.commonpath([shard.absolute().parent for shard in shards])
    named = {shard.absolute().relative_to(common).as_posix(): shard for shard in shards}
    if len(named) < len(shards):
        raise DataError(f"{location.text}: a shard appears twice in it; give each one once")
    return _open_shards(location.text, named)


def _open_folder(location: Location) -> VideoSource | None:
    shards = location.files_below(".tar")
    if not shards:
        return None
    source = _open_shards(location.text, {path.relative_to(location.path).as_posix(): path for path in shards})
    source.inventory = source.inventory.plus(location.inventory(shards))
    return source


def _open_shards(location: str, shards: Mapping[str, Path]) -> VideoSource:
    """`shards`: by the name that may state their splits."""
    found = places_by_container({name: path.stem for name, path in shards.items()})
    stated = (VideoEntry(name, split=place.split) for name, place in found.items() if place is not None)
    taken, others = taken_once(stated, {name: [path] for name, path in shards.items()})
    source = TarShards(location, {shards[entry.id]: entry.split for entry in taken})
    outside = Inventory.of({OUTSIDE: (name for name, place in found.items() if place is None)})
    source.inventory = source.inventory.plus(outside).plus(others)
    return source


def index_shard(shard: Path) -> dict[str, dict[str, Member]]:
    """The members of each sample, by key and by suffix (all that follows the key's dot), in lower case.

    Raises DataError for a truncated shard, for hostile members, and for ambiguous samples.
    """
    from webdataset.tariterators import group_by_keys  # imports torch, as in expand_shards

    def refuse(error: Exception) -> NoReturn:
        raise DataError(f"{shard}: {error.args[0]}") from error

    samples: dict[str, dict[str, Member]] = {}
    try:
        with (
            shard.open("rb") as file,
            tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:", encoding="utf-8") as tar,
        ):
            for sample in group_by_keys(_members(shard, tar), handler=refuse):
                key = sample["__key__"]
                if key in samples:
                    raise DataError(
                        f"{shard}: members of the sample {key!r} are not adjacent: write the shard in the "
                        "order of names, as `tar --sort=name` does"
                    )
                samples[key] = {suffix: value for suffix, value in sample.items() if isinstance(value, Member)}
            _require_end(shard, file, tar)
    except (tarfile.TarError, EOFError, OSError, ArithmeticError, ValueError) as error:
        raise DataError(f"{shard} cannot be read as an uncompressed tar file: {error}") from error
    return samples


class _Headers:
    """The file as tarfile reads it for its headers. Raises tarfile.ReadError for one that is too long."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _HEADER_LIMIT:
            raise tarfile.ReadError(f"a header of {size} bytes at byte {self.tell()}; the limit is {_HEADER_LIMIT}")
        return self._file.read(size)


def _members(shard: Path, tar: tarfile.TarFile) -> Iterator[dict[str, Any]]:
    """The plain files, in the form that webdataset groups. Raises DataError for members that no data set needs."""
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\0" in member.name:
            raise DataError(f"{shard}: member {member.name[:80]!r} leads out of the shard; nothing was read")
        longest = max((len(part.encode(errors="surrogateescape")) for part in path.parts), default=0)
        if longest > _NAME_BYTES or len(member.name) > _PATH_LENGTH:
            raise DataError(
                f"{shard}: the name of member {member.name[:80]!r}... is too long: {len(member.name)} characters (at "
                f"most {_PATH_LENGTH}), {longest} bytes between two slashes (at most {_NAME_BYTES}); rename it"
            )
        if member.isdir() or path.name.startswith("."):  # hidden, such as the ._x.mp4 that macOS adds; it has no key
            continue
        if _METADATA.match(member.name):
            continue
        if not member.isreg() or member.issparse():
            raise DataError(f"{shard}: member {member.name!r} is a link, a device or sparse; only plain files are read")
        suffixes = {suffix.lower() for suffix in path.suffixes}
        if suffixes & _PICKLED:
            raise DataError(
                f"{shard}: member {member.name!r} is a pickle, which could run code; remove it from the shard"
            )
        data = Member(member.name, member.offset_data, member.size)
        yield {"fname": member.name, "data": data, "__url__": str(shard)}


def _videos(shard: Path) -> Iterator[tuple[str, _Video | None]]:
    """(key, video) of each sample, (key, None) of one without a video.

    Raises DataError as `index_shard`, and if a label is not text.
    """
    samples = index_shard(shard)
    with shard.open("rb") as file:
        for key, sample in samples.items():
            videos = [member for member in sample.values() if member.suffix in VIDEO_SUFFIXES]
            if len(videos) > 1:
                raise DataError(
                    f"{shard}: the sample {key!r} contains several videos, {videos[0].name!r} and {videos[1].name!r}: "
                    "a key ends at the first dot of the file name, so rename one of them"
                )
            if not videos:
                yield key, None
                continue
            labels = [_label(shard, file, member) for member in sample.values()]
            label = next((label for label in reversed(labels) if label is not None), None)
            yield key, _Video(shard, videos[0], label)


def _label(shard: Path, file: BinaryIO, member: Member) -> str | None:
    """The class that a .cls or .json states; None for other members."""
    if member.suffix not in (".cls", ".json"):
        return None
    if member.size > _TEXT_LIMIT:
        raise DataError(f"{shard}: member {member.name!r} has {member.size} bytes; the limit is {_TEXT_LIMIT}")
    file.seek(member.offset)
    try:
        text = file.read(member.size).decode().strip()
        label = json.loads(text) if member.suffix == ".json" else text
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shard}: member {member.name!r} cannot be read as text: {error}") from error
    if member.suffix == ".json":
        label = label.get("label") if isinstance(label, dict) else None
    return None if label in (None, "") else str(label)


def _require_end(shard: Path, file: BinaryIO, tar: tarfile.TarFile) -> None:
    """Raises DataError if the shard is truncated, which tarfile does not notice between members."""
    last = tar.getmembers()[-1] if tar.getmembers() else None
    end = 0 if last is None else last.offset_data + (last.size + 511) // 512 * 512
    file.seek(end)
    if file.read(512) != _END:
        raise DataError(f"{shard} is truncated: it does not end as a tar file does; download it again")
