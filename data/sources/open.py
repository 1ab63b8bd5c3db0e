"""Opens the source at the value of `--data`: the kinds of sources, in the order in which they are tried.

A configuration names a location and never a kind, so it cannot run foreign code; in Python, `SOURCES.register` adds
kinds.
"""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from collections import Counter
from pathlib import PurePosixPath

from tokenreel.data.sources import tfrecords
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.folder import open_videos
from tokenreel.data.sources.frame_folders import open_frame_folders
from tokenreel.data.sources.hdf5 import open_hdf5
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.numpy_files import open_numpy_file
from tokenreel.data.sources.pictures import SUFFIXES as PICTURE_SUFFIXES
from tokenreel.data.sources.registry import SourceKind, SourceRegistry
from tokenreel.data.sources.tabletop import PREFIX, open_tabletop
from tokenreel.data.sources.tar_shards import open_tar_shards
from tokenreel.data.sources.tfrecords import open_bair_records
from tokenreel.data.video.container import SUFFIXES as VIDEO_SUFFIXES
from tokenreel.errors import DataError, nearest_name

SOURCES = SourceRegistry(
    [
        SourceKind("videos", open_videos, f"videos ({', '.join(VIDEO_SUFFIXES)})"),
        SourceKind(
            "frame-folders", open_frame_folders, f"folders of frames, animations ({', '.join(PICTURE_SUFFIXES)})"
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

    `?fps=10` after a path states the rate of frames without times (arrays, folders of frames, TFRecords), and
    `?kind=frame-folders` which of `SOURCES` opens it. Raises DataError, which says what was found, if there are no
    videos, and for a folder of videos and folders of frames without `kind`.
    """
    parsed = Location(location)
    source = _open(parsed)
    if source is None:
        raise DataError(
            f"{location}: {_found(parsed)}; expected {SOURCES.expected}. If code of your own registers another kind of "
            "source, import that code first"
        )
    if not source.entries and source.inventory.skipped:
        raise DataError(f"{location}: no videos in it, as all that it holds is skipped: {source.inventory}")
    if not source.entries:
        raise DataError(f"{location}: no videos in it; expected {SOURCES.expected}")
    _require_entries(source)
    return source


def _open(location: Location) -> VideoSource | None:
    names = [kind.name for kind in SOURCES]
    if location.kind is not None and location.kind not in names:
        raise DataError(f"{location.text}: kind {location.kind!r} is not known; {nearest_name(location.kind, names)}")
    for kind in SOURCES:
        if location.kind not in (None, kind.name):
            continue
        location.options_read = False
        source = kind.open(location)
        if source is not None:
            if kind.open is open_videos and location.kind is None:
                _require_no_frame_folders(location, source)
            if not location.options_read:
                location.options()  # raises if there are any, as this kind takes none
            return source
    return None


def _require_no_frame_folders(location: Location, source: VideoSource) -> None:
    """Raises DataError where several images lie in a folder of their own; next to a video they are thumbnails."""
    videos = {(location.path / entry.id).parent for entry in source.entries}
    pictures = Counter(path.parent for path in location.files_below(*PICTURE_SUFFIXES))
    folders = sorted(folder for folder, count in pictures.items() if count > 1 and folder not in videos)
    if folders:
        raise DataError(
            f"{location.text}: it contains videos ({source.entries[0].id}) and folders of images "
            f"({folders[0].relative_to(location.path)}), {len(source.entries)} and {len(folders)} of them: say which "
            "are the data by appending ?kind=videos or ?kind=frame-folders to the path"
        )


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
    """Raises DataError unless labels, splits and groups are strings and ids are sorted, unique and relative, all of
    them text that UTF-8 can hold: splits depend on ids, caches contain them, and they may come from an untrusted file.
    """
    for entry in source.entries:
        for name in (entry.id, entry.label, entry.split, entry.group):
            if isinstance(name, str) and not _is_text(name):
                raise DataError(f"{source.location}: the name {name!r} is not text in UTF-8; {_not_text()}")
        for what, value in (("label", entry.label), ("split", entry.split), ("group", entry.group)):
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
