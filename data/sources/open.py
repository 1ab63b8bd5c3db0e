"""From what a user gives as `--data` to a source of videos."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from tokenreel.data.sources import frame_folders, metadata, tabletop
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.folder import SingleVideo, VideoFolder
from tokenreel.data.sources.frame_folders import FrameFolders
from tokenreel.data.sources.hdf5 import Hdf5Source
from tokenreel.data.sources.numpy_files import NpySource, NpzSource
from tokenreel.data.sources.tabletop import TabletopSource
from tokenreel.data.sources.tar_shards import TarShards, expand_shards
from tokenreel.data.sources.tfrecords import BairRecords
from tokenreel.data.video.reader import SUFFIXES as VIDEO_SUFFIXES
from tokenreel.errors import DataError, nearest_name

_ARRAYS: dict[str, type[Hdf5Source | NpySource | NpzSource]] = {
    ".h5": Hdf5Source,
    ".hdf5": Hdf5Source,
    ".npz": NpzSource,
    ".npy": NpySource,
}
_RECORDS = (".tfrecord", ".tfrecords")
_EXPECTED = (
    f"expected videos ({', '.join(VIDEO_SUFFIXES)}), folders of frames ({', '.join(frame_folders.SUFFIXES)}), "
    "WebDataset shards (.tar), BAIR's TFRecords, one .h5, .npz or .npy file, or tabletop:"
)


def open_source(location: str) -> VideoSource:
    """The videos at `location`: a folder, a file, tar shards with ranges as in `train-{000..123}.tar`, or `tabletop:`.

    `?fps=10` behind a path states the rate of frames that carry no times (arrays, folders of frames, TFRecords).
    Raises DataError, which says what was found, where there are no videos.
    """
    source = _open(location)
    if not source.entries:
        raise DataError(f"{location}: it holds no videos; {_EXPECTED}")
    return source


def _open(location: str) -> VideoSource:
    path_text, options = _split_options(location)
    if location.startswith(tabletop.PREFIX):
        return TabletopSource(location, options)
    frame_rate = _stated_rate(location, options)
    path = Path(path_text)
    if path.suffix == ".tar" or "{" in path_text:
        return TarShards(location, expand_shards(path_text))
    if path.is_dir():
        return _open_folder(location, path, frame_rate)
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, 1)
        raise DataError(f"{location}: no such file or folder{f'; did you mean {near[0]!r}?' if near else ''}")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return SingleVideo(location, path)
    if path.suffix.lower() in _ARRAYS:
        return _ARRAYS[path.suffix.lower()](location, path, frame_rate)
    if path.suffix.lower() in _RECORDS:
        return BairRecords(location, path.parent, [path], frame_rate)
    raise DataError(f"{location}: a file of an unknown kind; {_EXPECTED}")


def _open_folder(location: str, root: Path, frame_rate: float | None) -> VideoSource:
    files = _visible_files(location, root)
    by_suffix: dict[str, list[Path]] = {}
    for file in files:
        by_suffix.setdefault(file.suffix.lower(), []).append(file)

    def having(*suffixes: str) -> list[Path]:
        return sorted(file for suffix in suffixes for file in by_suffix.get(suffix, ()))

    told = [file for file in files if file.name in metadata.NAMES]
    if videos := having(*VIDEO_SUFFIXES):  # pictures beside them are thumbnails
        return VideoFolder(location, root, videos, told)
    if pictures := having(*frame_folders.SUFFIXES):
        return FrameFolders(location, root, pictures, told, frame_rate)
    if shards := having(".tar"):
        return TarShards(location, shards)
    if records := having(*_RECORDS):
        return BairRecords(location, root, records, frame_rate)
    counts = Counter(file.suffix.lower() or "no suffix" for file in files)
    found = ", ".join(f"{count} x {suffix}" for suffix, count in counts.most_common(5))
    raise DataError(
        f"{location}: {f'no videos among its files ({found})' if found else 'an empty folder'}; {_EXPECTED}"
    )


def _visible_files(location: str, root: Path) -> list[Path]:
    """Every file below `root` but hidden ones, such as the ._x.mp4 that macOS writes beside x.mp4."""
    try:
        return [
            path
            for path in root.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(root).parts) and path.is_file()
        ]
    except OSError as error:
        raise DataError(f"{location}: {error.filename}: {error.strerror}") from error


def _split_options(location: str) -> tuple[str, Mapping[str, str]]:
    """'frames?fps=10' -> ('frames', {'fps': '10'}); a path that exists as it is written has no options."""
    path, mark, query = location.partition("?")
    if not mark or Path(location).exists():
        return location, {}
    pairs = parse_qsl(query, keep_blank_values=True)
    if not pairs or len(dict(pairs)) != len(pairs):
        raise DataError(f"{location}: write what follows ? as name=value&name=value, each name once")
    return path, dict(pairs)


def _stated_rate(location: str, options: Mapping[str, str]) -> float | None:
    for name in options:
        if name != "fps":
            raise DataError(f"{location}: option {name!r} is not known; {nearest_name(name, ['fps'])}")
    if "fps" not in options:
        return None
    try:
        rate = float(options["fps"])
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise DataError(f"{location}: fps (={options['fps']}) must be a positive number of frames a second")
    return rate
