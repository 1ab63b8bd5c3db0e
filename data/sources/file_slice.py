"""A part of a file as a file of its own, by which a video inside a tar shard is read in place."""

from __future__ import annotations

import io
import os
from pathlib import Path

from tokenreel.errors import DataError


class FileSlice(io.RawIOBase):
    """Bytes [start, start + size) of a file, read only. Raises DataError where it cannot be opened."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        self._start, self._size, self._position = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills `buffer` as far as the slice reaches; 0 at its end."""
        view = memoryview(buffer).cast("B")
        size = min(len(view), max(0, self._size - self._position))
        count = os.preadv(self._descriptor, [view[:size]], self._start + self._position) if size else 0
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed and self._descriptor >= 0:
            os.close(self._descriptor)
        super().close()
