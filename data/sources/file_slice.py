"""A part of a file as a file of its own, by which a video inside a tar shard is read in place."""

from __future__ import annotations

import io
import os
from pathlib import Path

from tokenreel.errors import DataError


class FileSlice(io.RawIOBase):
    """Bytes [start, start + size) of a file, read only. Raises DataError where it cannot be opened."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        self._start, self._size, self._position = start, size, 0
        self._file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        self._file.seek(self._start + self._position)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills `buffer` as far as the slice reaches; 0 at its end."""
        view = memoryview(buffer).cast("B")
        size = min(len(view), max(0, self._size - self._position))
        count = self._file.readinto(view[:size]) if size else 0
        self._position += count
        return count

    def close(self) -> None:
        if hasattr(self, "_file"):  # it may not have been opened
            self._file.close()
        super().close()
