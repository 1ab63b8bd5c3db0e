"""Videos in .npz and .npy files. Headers are read first; arrays of Python objects are refused, not unpickled."""

from __future__ import annotations

import lzma
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
from tokenreel.data.sources.stacks import LABELS, StackSource
from tokenreel.data.video.reader import DecodeFailure
from tokenreel.errors import DataError

_DAMAGE = (
    *(OSError, ValueError, EOFError, RuntimeError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
)
Header = tuple[tuple[int, ...], np.dtype[Any]]


class NpySource(StackSource):
    """Videos in the array of an .npy file, which is memory-mapped."""

    def __init__(self, location: str, path: Path, frame_rate: float | None) -> None:
        self._mapped = load_npy(path)
        if self._mapped.dtype != np.uint8:
            raise DataError(f"{path}: videos must be uint8, got {self._mapped.dtype}")
        super().__init__(location, {path.stem: self._mapped.shape}, None, frame_rate)

    def _array(self, name: str) -> np.ndarray:
        return self._mapped


class NpzSource(StackSource):
    """Videos in the named arrays of an .npz file; the array read last stays in memory."""

    def __init__(self, location: str, path: Path, frame_rate: float | None) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
                headers = {name: _member_header(archive, name) for name in names}
                labels = [str(label) for label in _load(archive, LABELS)] if LABELS in headers else None
        except _DAMAGE as error:
            raise DataError(f"{path} is not an .npz file that can be read safely: {error}") from error
        shapes = {n: shape for n, (shape, dtype) in headers.items() if dtype == np.uint8 and len(shape) >= 3}
        super().__init__(location, shapes, labels, frame_rate, headers.keys() - shapes.keys() - {LABELS})
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


def open_numpy_file(location: Location) -> VideoSource | None:
    """One .npz or .npy file."""
    if file := location.file(".npz"):
        return NpzSource(location.text, file, location.frame_rate())
    if file := location.file(".npy"):
        return NpySource(location.text, file, location.frame_rate())
    return None


def load_npy(path: Path) -> np.ndarray:
    """The array of an .npy file, memory-mapped read-only. Raises DataError unless it is a complete array of numbers."""
    try:
        with path.open("rb") as file:
            _header(file)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except _DAMAGE as error:
        raise DataError(f"{path} is not an .npy file that can be read safely: {error}") from error


def _member_header(archive: zipfile.ZipFile, name: str) -> Header:
    with archive.open(f"{name}.npy") as file:
        return _header(file)


def _load(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return npy.read_array(file, allow_pickle=False)


def _header(file: IO[bytes]) -> Header:
    """Shape and dtype. Raises ValueError if the file has no array or an array of Python objects."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it contains Python objects, which only unpickling could read; save plain numbers")
    return shape, dtype


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
