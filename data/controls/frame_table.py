"""Per-frame tables: numbers for each frame of each video, in CSV files with `file_name`, `frame` and numeric columns.

`file_name` is relative to the CSV's own folder, as in metadata.csv; `frame` counts a video's own frames from 0, and
each must have exactly one row. Spaces around these names and their case do not matter. No video is opened here.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from tokenreel.data.lines import bounded_lines, column_name
from tokenreel.data.walk import walk
from tokenreel.errors import DataError, nearest_name

FILE_NAME, FRAME = "file_name", "frame"


class FrameTables:
    """The tables of a folder of videos, each read once. The videos' names are relative to `root`, by default the
    folder itself.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self._folder = folder
        self._root = folder if root is None else root
        self._tables: dict[tuple[str, tuple[str, ...]], dict[str, np.ndarray]] = {}

    def columns(self, file: str) -> tuple[str, ...]:
        """The numeric columns of the first file of that name. Raises DataError if there is none."""
        return columns_of(find_tables(self._folder, file)[0])

    def numbers(self, name: str, file: str, columns: tuple[str, ...]) -> np.ndarray:
        """float32 [frames, S] of the video `name`. Raises DataError if the table lacks it."""
        if (file, columns) not in self._tables:
            self._tables[file, columns] = read_tables(find_tables(self._folder, file), self._root, columns)
        tables = self._tables[file, columns]
        if name not in tables:
            raise DataError(f"{name}: {file} has no row for it; {nearest_name(name, list(tables)[:50])}")
        return tables[name]

    def sha256(self, file: str) -> str:
        """Hex sha256 of all files of that name and their paths. Raises DataError if there is none."""
        digest = hashlib.sha256()
        for path in find_tables(self._folder, file):
            with path.open("rb") as table:
                content = hashlib.file_digest(table, "sha256").hexdigest()
            digest.update(f"{content} {path.relative_to(self._root).as_posix()}\n".encode())
        return digest.hexdigest()


def find_tables(root: Path, file: str) -> list[Path]:
    """The CSV files named `file` below `root`, except hidden ones. Raises DataError if there is none."""
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        raise DataError(f"the table {file!r} leads out of the folder {root}: put it next to the metadata")
    found = [path for path in walk(root).files if path.relative_to(root).match(file)]
    if not found:
        raise DataError(
            f"{root} contains no {file}: write one with the columns {FILE_NAME}, {FRAME} and a number for each control"
        )
    return found


def columns_of(path: Path) -> tuple[str, ...]:
    """The numeric columns, in their order. Raises DataError if the header is invalid."""
    with _opened(path) as lines:
        header = _header(lines)
    columns = tuple(name for name in header if name not in (FILE_NAME, FRAME))
    if FRAME not in header or not columns or len(set(header)) != len(header):
        raise DataError(
            f"{path}: its columns are {', '.join(header) or 'none'}; expected {FRAME} and at least one more, each once"
        )
    return columns


def is_frame_table(path: Path) -> bool:
    """Whether a file is a table of several videos that `find_tables` may find, by its name and header."""
    if path.suffix.lower() != ".csv":
        return False
    try:
        columns_of(path)
        with _opened(path) as lines:
            return FILE_NAME in _header(lines)
    except DataError:
        return False


def read_tables(paths: Iterable[Path], root: Path, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """float32 [frames, S] by video (its path below `root`). Raises DataError, naming the invalid line."""
    rows: dict[str, dict[int, list[float]]] = {}
    for path in paths:
        folder = PurePosixPath(path.parent.relative_to(root).as_posix())
        for where, name, frame, numbers in _lines(path, columns, named=True):
            video = rows.setdefault((folder / name).as_posix(), {})
            if frame in video:
                raise DataError(f"{where}: frame {frame} of {name} appears twice")
            video[frame] = numbers
    return {name: _in_order(name, frames) for name, frames in rows.items()}


def read_table(path: Path, columns: tuple[str, ...]) -> np.ndarray:
    """The table of a single clip, without `file_name` -> float32 [frames, S]. Raises DataError as `read_tables`."""
    frames: dict[int, list[float]] = {}
    for where, _, frame, numbers in _lines(path, columns, named=False):
        if frame in frames:
            raise DataError(f"{where}: frame {frame} appears twice")
        frames[frame] = numbers
    return _in_order(str(path), frames)


def _lines(path: Path, columns: tuple[str, ...], named: bool) -> Iterator[tuple[str, str, int, list[float]]]:
    """("path, line number", file_name, frame, numbers) for each row."""
    known = columns_of(path)
    for name in columns:
        if name not in known:
            raise DataError(f"{path} has no column {name!r}; {nearest_name(name, known)}")
    with _opened(path) as lines:
        for number, row in enumerate(csv.DictReader(lines, fieldnames=_header(lines)), start=2):
            where = f"{path}, line {number}"
            name = row.get(FILE_NAME) or ""
            if named and not name:
                raise DataError(f"{where}: no {FILE_NAME}")
            yield where, name, int(_number(where, row, FRAME)), [_number(where, row, column) for column in columns]


def _header(lines: Iterator[str]) -> list[str]:
    """The names of the columns in the first line, as `column_name` gives them."""
    return [column_name(name, (FILE_NAME, FRAME)) for name in next(csv.reader(lines), [])]


def _number(where: str, row: Mapping[str, str | None], column: str) -> float:
    try:
        value = float(row[column] or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (column == FRAME and (value < 0 or not value.is_integer())):
        expected = "a frame number" if column == FRAME else "a number"
        raise DataError(f"{where}: {column} (={row[column]!r}) is not {expected}")
    return value


def _in_order(name: str, frames: Mapping[int, list[float]]) -> np.ndarray:
    missing = next((frame for frame in range(len(frames)) if frame not in frames), None)
    if missing is not None or not frames:
        raise DataError(
            f"{name}: its table has no row for frame {missing or 0}, but {len(frames)} rows, up to frame "
            f"{max(frames, default=0)}: give a row for each frame from 0 on"
        )
    return np.array([frames[frame] for frame in range(len(frames))], dtype=np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield bounded_lines(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
