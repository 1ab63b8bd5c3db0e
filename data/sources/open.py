"""Opens the source at the value of `--data`: the kinds of sources, in the order in which they are tried.

A configuration names a location and never a kind, so it cannot run foreign code; in Python, `SOURCES.register` adds
kinds.
"""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from pathlib import PurePosixPath

from tokenreel.data.sources import pictures, tfrecords
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
        SourceKind(
            "frame-folders", open_frame_folders, f"folders of frames, animations ({', '.join(pictures.SUFFIXES)})"
        ),
        SourceKind("tar-shards", open_tar_shards, "WebDataset shards (.tar)"),
        SourceKind("bair-records", open_bair_records, f"BAIR's TFRecords ({', '.join(tfrecords.SUFFIXES)})"),
        SourceKind("hdf5", open_hdf5, "one .h5 or .hdf5 file"),
        SourceKind("numpy", open_numpy_file, "one .npz or .npy file"),
        SourceKind("tabletop", open_tabletop, PREFIX),
    ]
)

_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\")  # the start of an absolute path on Windows


def open_source(location: str) -> VideoSource:
    """The videos at `location`, opened by the first of `SOURCES` that recognizes it.

    `?fps=10` after a path states the rate of frames without times (arrays, folders of frames, TFRecords). Raises
    DataError, which says what was found, if there are no videos.
    """
    parsed = Location(location)
    source = _open(parsed)
    if source is None:
        raise DataError(
            f"{location}: {_found(parsed)}; expected {SOURCES.expected}. If code of your own registers another kind of "
            "source, import that code first"
        )
    if not source.entries:
        raise DataError(f"{location}: no videos in it; expected {SOURCES.expected}")
    _require_entries(source)
    return source


def _open(location: Location) -> VideoSource | None:
    for kind in SOURCES:
        location.options_read = False
        source = kind.open(location)
        if source is not None:
            if not location.options_read:
                location.options()  # raises if there are any, as this kind takes none
            return source
    return None


def _found(location: Location) -> str:
    """What is at the location instead of videos, in words."""
    path = location.path
    if path.is_dir():
        counts = location.count_files().most_common(5)
        found = ", ".join(f"{count} x {suffix or 'no suffix'}" for suffix, count in counts)
        return f"no videos among its files ({found})" if found else "an empty folder"
    if path.exists():
        return "a file of an unknown kind"
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, 1)
    return f"no such file or folder{f'; did you mean {near[0]!r}?' if near else ''}"


def _require_entries(source: VideoSource) -> None:
    """Raises DataError unless labels and splits are strings and ids are sorted, unique and relative, all of them text
    that UTF-8 can hold: splits depend on ids, caches contain them, and they may come from an untrusted file.
    """
    for entry in source.entries:
        for name in (entry.id, entry.label, entry.split):
            if isinstance(name, str) and not _is_text(name):
                raise DataError(f"{source.location}: the name {name!r} is not text in UTF-8; {_not_text()}")
        for what, value in (("label", entry.label), ("split", entry.split)):
            if value is not None and not isinstance(value, str):
                raise DataError(f"{source.location}: the {what} of {entry.id!r} is {value!r}; expected a str or None")
    ids = [entry.id for entry in source.entries]
    for name in ids:
        path = PurePosixPath(name)
        if not path.name or path.is_absolute() or ".." in path.parts or _DRIVE.match(name) or "\0" in name:
            raise DataError(f"{source.location}: the video id {name!r} must be a relative path without ..")
    for before, name in itertools.pairwise(ids):
        if name == before:
            raise DataError(f"{source.location}: the video id {name!r} appears twice")
        if name < before:
            raise DataError(f"{source.location}: the video ids are not sorted: {name!r} after {before!r}")


def _is_text(name: str) -> bool:
    """Whether UTF-8 can hold it. Python stands surrogates for bytes of a file name that it cannot decode."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_text() -> str:
    """What to do about a name that is not text, in words."""
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return "rename it"
    return f"file names are read as {encoding} here: set the environment variable PYTHONUTF8=1"
