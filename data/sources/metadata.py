"""Classes and splits of videos from folder names and metadata files, as in Hugging Face's VideoFolder.

`metadata.csv` or `metadata.jsonl` has a row for each video: `file_name`, relative to the metadata's own folder, and
optionally `label` and `split`. Without metadata, a top folder named after a split is a split, and the next folder is
the class. No video is opened here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.location import Location
from tokenreel.errors import DataError

NAMES = ("metadata.csv", "metadata.jsonl")
SPLIT_FOLDERS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))


def metadata_files(location: Location) -> list[Path]:
    """The metadata files below a folder."""
    return [file for file in location.files_below(".csv", ".jsonl") if file.name in NAMES]


def describe(root: Path, paths: list[Path], metadata: list[Path]) -> list[VideoEntry]:
    """Entries for the files or folders `paths` below `root`; with metadata, for those that it lists and no others."""
    ids = [path.relative_to(root).as_posix() for path in paths]
    entries = {entry.id: entry for entry in _by_folders(ids)}
    if not metadata:
        return list(entries.values())
    listed: dict[str, VideoEntry] = {}
    missing: list[str] = []
    for file in metadata:
        for where, row in _rows(file):
            entry = _by_row(root, file, where, row, entries)
            if entry is None:
                missing.append(f"{where}: {row['file_name']!r}")
                continue
            if entry.id in listed:
                raise DataError(f"{where}: {entry.id} is listed twice")
            listed[entry.id] = entry
    if missing:
        shown = "; ".join(missing[:5]) + ("; ..." if len(missing) > 5 else "")
        raise DataError(
            f"{len(missing)} of the {len(missing) + len(listed)} videos that the metadata lists are not in the folder "
            f"({shown}): remove their rows, or add the files"
        )
    if not listed:
        raise DataError(f"{', '.join(map(str, metadata))}: no row names a video; remove the file, or list the videos")
    return list(listed.values())


def _by_folders(ids: list[str]) -> Iterator[VideoEntry]:
    folders = [PurePosixPath(name).parts[:-1] for name in ids]
    divided = all(parts and parts[0].lower() in SPLIT_FOLDERS for parts in folders)
    for name, parts in zip(ids, folders, strict=True):
        split, classes = (parts[0], parts[1:]) if divided else (None, parts)
        yield VideoEntry(name, classes[0] if classes else None, split)


def _by_row(
    root: Path, file: Path, where: str, row: dict[str, Any], entries: dict[str, VideoEntry]
) -> VideoEntry | None:
    """The entry of the video that a row lists; None if it is not in the folder."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: no file_name; columns: {', '.join(map(str, row))}")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataError(f"{where}: file_name {name!r} leads out of the folder; give a path below it")
    key = (PurePosixPath(file.parent.relative_to(root).as_posix()) / name).as_posix()
    if key not in entries:
        return None
    found = entries[key]
    label, split = row.get("label"), row.get("split")
    return VideoEntry(
        key, found.label if label in (None, "") else str(label), found.split if split in (None, "") else str(split)
    )


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line number", row) for each row of the metadata file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}") from error
    if file.suffix == ".csv":
        try:
            rows = csv.DictReader(io.StringIO(text, newline=""))  # splitlines would break a caption at U+2028
            for row in rows:
                yield f"{file}, line {rows.line_num}", row
        except csv.Error as error:
            raise DataError(f"{file} cannot be read as CSV: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            item = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: not JSON ({error})") from error
        if isinstance(item, dict):
            yield f"{file}, line {number}", item
        elif line.strip():
            raise DataError(f"{file}, line {number}: expected an object with file_name, got {type(item).__name__}")
