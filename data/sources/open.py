"""From what a user gives as `--data` to a source of videos: the kinds of sources, in the order in which they are tried.

A configuration names a location and never a kind, so it can run no code of others; from Python, `SOURCES.register` adds
kinds.
"""

from __future__ import annotations

import difflib
import itertools
import re
from pathlib import PurePosixPath

from tokenreel.data.sources import frame_folders, tfrecords
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.folder import open_videos
from tokenreel.data.sources.frame_folders import open_frame_folders
from tokenreel.data.sources.hdf5 import open_hdf5
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.numpy_files import open_numpy_file
from tokenreel.data.sources.registry import SourceKind, SourceRegistry
from tokenreel.data.sources.tabletop import PREFIX, open_tabletop
from tokenreel.data.sources.tar_shards import open_tar_shards
from tokenreel.data.sources.tfrecords import open_bair_records
from tokenreel.data.video.reader import SUFFIXES as VIDEO_SUFFIXES
from tokenreel.errors import DataError

SOURCES = SourceRegistry(
    [
        SourceKind("videos", open_videos, f"videos ({', '.join(VIDEO_SUFFIXES)})"),
        SourceKind("frame-folders", open_frame_folders, f"folders of frames ({', '.join(frame_folders.SUFFIXES)})"),
        SourceKind("tar-shards", open_tar_shards, "WebDataset shards (.tar)"),
        SourceKind("bair-records", open_bair_records, f"BAIR's TFRecords ({', '.join(tfrecords.SUFFIXES)})"),
        SourceKind("hdf5", open_hdf5, "one .h5 or .hdf5 file"),
        SourceKind("numpy", open_numpy_file, "one .npz or .npy file"),
        SourceKind("tabletop", open_tabletop, PREFIX),
    ]
)

_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\")  # how an absolute path starts on Windows


def open_source(location: str) -> VideoSource:
    """The videos at `location`, opened by the first of `SOURCES` that knows what is there.

    `?fps=10` behind a path states the rate of frames that carry no times (arrays, folders of frames, TFRecords).
    Raises DataError, which says what was found, where there are no videos.
    """
    place = Location(location)
    source = _open(place)
    if source is None:
        raise DataError(
            f"{location}: {_found(place)}; expected {SOURCES.expected}. If code of your own registers another kind of "
            "source, import that code first"
        )
    if not source.entries:
        raise DataError(f"{location}: it holds no videos; expected {SOURCES.expected}")
    _require_entries(source)
    return source


def _open(place: Location) -> VideoSource | None:
    for kind in SOURCES:
        place.options_read = False
        source = kind.open(place)
        if source is not None:
            if not place.options_read:
                place.options()  # raises if there are any, as this kind takes none
            return source
    return None


def _found(place: Location) -> str:
    """What there is instead of videos, in words."""
    path = place.path
    if path.is_dir():
        counts = place.count_files().most_common(5)
        found = ", ".join(f"{count} x {suffix or 'no suffix'}" for suffix, count in counts)
        return f"no videos among its files ({found})" if found else "an empty folder"
    if path.exists():
        return "a file of an unknown kind"
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, 1)
    return f"no such file or folder{f'; did you mean {near[0]!r}?' if near else ''}"


def _require_entries(source: VideoSource) -> None:
    """Raises DataError unless ids are sorted, each there once, and relative: they divide the videos by hash, stand in
    caches, and may come out of a file that somebody else made. Labels and splits are names.
    """
    for entry in source.entries:
        for what, value in (("label", entry.label), ("split", entry.split)):
            if value is not None and not isinstance(value, str):
                raise DataError(f"{source.location}: the {what} of {entry.id!r} is {value!r}; expected a str or None")
    ids = [entry.id for entry in source.entries]
    for name in ids:
        path = PurePosixPath(name)
        if not path.name or path.is_absolute() or ".." in path.parts or _DRIVE.match(name) or "\0" in name:
            raise DataError(f"{source.location}: the video {name!r} is named by no path below the source")
    for before, name in itertools.pairwise(ids):
        if name == before:
            raise DataError(f"{source.location}: the video {name!r} comes twice")
        if name < before:
            raise DataError(f"{source.location}: the video {name!r} is not in the order of ids, after {before!r}")
