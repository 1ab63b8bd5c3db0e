"""Classes and splits of videos from folder names and metadata files, as in Hugging Face's VideoFolder.

`metadata.csv` or `metadata.jsonl` has a row for each video: `file_name`, relative to the metadata's own folder, and
optionally `label`, `split` and `group`; spaces around these names and their case do not matter. What a row does not
state of label and split, the folders do. No video is opened here.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from tokenreel.data.lines import bounded_lines, column_name
from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.folder_splits import OUTSIDE, classes_like_splits, places
from tokenreel.data.sources.inventory import Inventory
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.same_files import taken_once
from tokenreel.errors import DataError

NAMES = ("metadata.csv", "metadata.jsonl")
_COLUMNS = ("file_name", "label", "split", "group")
MISSING = "not-in-folder"  # reason of a video that only the metadata list, as Kinetics lists some that are gone
UNLISTED = "not-in-metadata"  # reason of a video that the metadata does not list


def metadata_files(location: Location) -> list[Path]:
    """The metadata files below a folder."""
    return [file for file in location.files_below(".csv", ".jsonl") if file.name in NAMES]


def describe(
    root: Path, videos: Mapping[Path, Sequence[Path]], metadata: list[Path]
) -> tuple[list[VideoEntry], Inventory]:
    """Entries for `videos`, files or folders below `root` with the files of each, and which of them have none: with
    metadata, those that it does not list; else those outside of the split folders; and names of files taken before.

    Raises DataError for invalid metadata, and as `taken_once`.
    """
    files = {path.relative_to(root).as_posix(): own for path, own in videos.items()}
    entries, inventory = _described(root, list(files), metadata)
    entries, others = taken_once(entries, files)
    return entries, inventory.plus(others)


def _described(root: Path, ids: list[str], metadata: list[Path]) -> tuple[list[VideoEntry], Inventory]:
    found = places(ids)
    if not metadata:
        entries = [VideoEntry(name, place.label, place.split) for name, place in found.items() if place]
        outside = (name for name, place in found.items() if not place)
        return entries, Inventory.of({OUTSIDE: outside}, (), classes_like_splits(found.values()))
    by_folder = {
        name: VideoEntry(name) if p is None else VideoEntry(name, p.label, p.split) for name, p in found.items()
    }
    listed: dict[str, VideoEntry] = {}
    unread = set[str]()
    missing: list[str] = []
    for file in metadata:
        has_rows = False
        for where, row in _rows(file):
            has_rows = True
            named = _named_columns(where, row)
            unread |= named.keys() - set(_COLUMNS)
            entry = _by_row(root, file, where, named, by_folder)
            if entry is None:
                missing.append(named["file_name"])
                continue
            if entry.id in listed:
                raise DataError(f"{where}: {entry.id} is listed twice")
            listed[entry.id] = entry
        if not has_rows:
            raise DataError(f"{file} has no rows, so it lists no video: give each its row, or remove the file")
    return list(listed.values()), Inventory.of({UNLISTED: by_folder.keys() - listed.keys(), MISSING: missing}, unread)


def _named_columns(where: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row with names of columns as they are documented, where a header has ` Label`. Raises DataError if two
    columns have one name then, and for values beyond the last column.
    """
    named: dict[str, Any] = {}
    for column, value in row.items():
        if not isinstance(column, str):  # csv.DictReader's key of the values beyond the last column
            if any(value):
                raise DataError(f"{where}: it has more values than columns; quote a value that contains a comma")
            continue
        name = column_name(column, _COLUMNS)
        if name in named:
            raise DataError(f"{where}: the metadata have two columns named {name!r}; rename one of them")
        named[name] = value
    return named


def _by_row(
    root: Path, file: Path, where: str, row: dict[str, Any], entries: dict[str, VideoEntry]
) -> VideoEntry | None:
    """The entry of the video that a row lists; None if it is not in the folder."""
    name = row.get("file_name")
    name = name.strip() if isinstance(name, str) else name
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: no file_name; columns: {', '.join(map(str, row))}")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataError(f"{where}: file_name {name!r} leads out of the folder; give a path below it")
    key = (PurePosixPath(file.parent.relative_to(root).as_posix()) / name).as_posix()
    if key not in entries:
        return None
    found = entries[key]
    label, split = _stated(row, "label"), _stated(row, "split")
    label, split = found.label if label is None else label, found.split if split is None else split
    return VideoEntry(key, label, split, _stated(row, "group"))


def _stated(row: dict[str, Any], column: str) -> str | None:
    """The value as text, without spaces around it; None for an empty one."""
    value = row.get(column)
    return (None if value is None else str(value).strip()) or None


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line number", row) for each row of the metadata file."""
    try:
        with file.open(encoding="utf-8-sig", newline="" if file.suffix == ".csv" else None) as text:
            if file.suffix == ".csv":
                rows = csv.DictReader(bounded_lines(text))
                for row in rows:
                    yield f"{file}, line {rows.line_num}", row
            else:
                yield from _objects(file, text)
    except csv.Error as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}") from error


def _objects(file: Path, text: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(bounded_lines(text), start=1):
        try:
            item = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: not JSON ({error})") from error
        if isinstance(item, dict):
            yield f"{file}, line {number}", item
        elif line.strip():
            raise DataError(f"{file}, line {number}: expected an object with file_name, got {type(item).__name__}")
