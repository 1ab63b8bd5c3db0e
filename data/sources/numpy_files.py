"""Videos in .npz and .npy files. Headers are read first; arrays of Python objects are refused, not unpickled."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.stacks import (
    LABELS,
    MAX_ARRAY_BYTES,
    MAX_LABEL_BYTES,
    ArrayOptions,
    StackSource,
    label_names,
    require_labels,
)
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError

_DAMAGE = (
    *(OSError, ValueError, EOFError, RuntimeError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
_MAX_RATIO = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1033}  # bytes out of one byte: deflate's limit is 1032
_HEADER_BYTES = 1 << 16  # numpy itself reads no header of more than 10,000
Header = tuple[tuple[int, ...], np.dtype[Any], int]  # shape, dtype, byte at which the data begins


class NpySource(StackSource):
    """Videos in the array of an .npy file, which is memory-mapped."""

    def __init__(self, location: str, path: Path, options: ArrayOptions) -> None:
        self._mapped = load_npy(path)
        if self._mapped.dtype != np.uint8:
            raise DataError(f"{path}: videos must be uint8, got {self._mapped.dtype}")
        super().__init__(location, {path.stem: self._mapped.shape}, options)

    def _array(self, name: str) -> np.ndarray:
        return self._mapped

    def _labels(self, count: int) -> None:
        return None


class NpzSource(StackSource):
    """Videos in the named arrays of an .npz file; the array read last stays in memory."""

    def __init__(self, location: str, path: Path, options: ArrayOptions) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
                self._headers = {name: _member_header(archive, name) for name in names}
        except _DAMAGE as error:
            raise DataError(f"{path} is not an .npz file that can be read safely: {error}") from error
        shapes = {n: shape for n, (shape, dtype) in self._headers.items() if dtype == np.uint8 and len(shape) >= 3}
        super().__init__(location, shapes, options, self._headers.keys() - shapes.keys() - {LABELS})
        for name in self._shapes:
            _require_small(path, name, *self._headers[name])
        self._loaded: tuple[str, np.ndarray] | None = None

    def _array(self, name: str) -> np.ndarray:
        if self._loaded is None or self._loaded[0] != name:
            try:
                file = self._path.open("rb")
            except OSError as error:  # says nothing about the array itself
                raise DataError(f"{self._path}: {error.strerror}") from error
            try:
                with file, zipfile.ZipFile(file) as archive:
                    self._loaded = name, _load(archive, name)
            except _DAMAGE as error:
                raise DecodeFailure("corrupt", f"array {name!r} is damaged ({error})") from error
        return self._loaded[1]

    def _labels(self, count: int) -> list[str] | None:
        if LABELS not in self._headers:
            return None
        require_labels(str(self._path), *self._headers[LABELS], count)
        _require_small(self._path, LABELS, *self._headers[LABELS])
        try:
            with zipfile.ZipFile(self._path) as archive:
                return label_names(_load(archive, LABELS))
        except _DAMAGE as error:
            raise DataError(f"{self._path}: {LABELS!r} cannot be read: {error}") from error


def open_numpy_file(location: Location) -> VideoSource | None:
    """One .npz or .npy file."""
    if file := location.file(".npz"):
        return NpzSource(location.text, file, ArrayOptions.of(location))
    if file := location.file(".npy"):
        return NpySource(location.text, file, ArrayOptions.of(location))
    return None


def load_npy(path: Path) -> np.ndarray:
    """The array of an .npy file, memory-mapped read-only. Raises DataError unless it is a complete array of numbers."""
    try:
        with path.open("rb") as file:
            shape, dtype, start = _header(file)
        if start + math.prod(shape) * dtype.itemsize > path.stat().st_size:
            raise ValueError(f"it claims the shape {list(shape)}, for which the file is too small")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except _DAMAGE as error:
        raise DataError(f"{path} is not an .npy file that can be read safely: {error}") from error


def _member_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array. Raises ValueError as `_header`, and unless the archive can hold that size."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in _MAX_RATIO:
        raise ValueError(f"array {name!r} is compressed otherwise than numpy does; save it with np.savez_compressed")
    with archive.open(member) as file:
        shape, dtype, start = _header(file)
    size = math.prod(shape) * dtype.itemsize
    if start + size != member.file_size or member.file_size > _MAX_RATIO[member.compress_type] * member.compress_size:
        raise ValueError(f"array {name!r} claims the shape {list(shape)}, for which the file is too small")
    return shape, dtype


def _require_small(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raises DataError for an array that is too large to be read into memory."""
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise DataError(
            f"{path}: array {name!r} has {size / 2**30:.1f} GiB; one of an .npz is read as a whole, so it has at most "
            f"{MAX_ARRAY_BYTES / 2**30:g} GiB: save it with np.save as .npy, which is mapped"
        )


def _load(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return npy.read_array(file, allow_pickle=False)


def _header(file: IO[bytes]) -> Header:
    """Shape, dtype and where the data begins. Raises ValueError if the file has no array or one of Python objects."""
    start = io.BytesIO(file.read(_HEADER_BYTES))  # whatever length the header claims
    version = npy.read_magic(start)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(start)
    if dtype.hasobject:
        raise ValueError("it contains Python objects, which only unpickling could read; save plain numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"it claims the shape {list(shape)}")
    return shape, dtype, start.tell()


def read_foreign_tokens(path: Path) -> np.ndarray:
    """Tokens [N, t, h, w, q] of any integer type, memory-mapped; a file with [N, t, h, w] has q = 1.

    Raises DataError for anything else, for an empty array and for negative tokens.
    """
    tokens = load_npy(path)
    if tokens.dtype.kind not in "iu":
        raise DataError(f"{path}: tokens must be integers, got {tokens.dtype}")
    if tokens.ndim not in (4, 5) or 0 in tokens.shape:
        raise DataError(f"{path}: expected tokens [N, t, h, w, q] or [N, t, h, w], got {list(tokens.shape)}")
    if tokens.dtype.kind == "i" and tokens.min() < 0:
        raise DataError(f"{path}: the smallest token is {tokens.min()}; tokens start at 0")
    return tokens if tokens.ndim == 5 else tokens[..., None]


def read_row_names(path: Path, rows: int) -> list[str]:
    """An .npy file of `rows` integers or names, one for each row of imported tokens. Raises DataError for others."""
    names = load_npy(path)
    if names.shape != (rows,) or names.dtype.kind not in "iuSU" or names.dtype.itemsize > MAX_LABEL_BYTES:
        raise DataError(
            f"{path}: expected {rows} integers or names, one for each row of tokens, got {names.dtype} "
            f"{list(names.shape)}"
        )
    try:
        return label_names(names)
    except ValueError as error:
        raise DataError(f"{path}: its names are not text in UTF-8: {error}") from error
