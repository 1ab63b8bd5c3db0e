"""Writes a clip to a file whose name says how: .mp4 (with sound), .gif, .png (all frames in one picture) or .npy.

Frames come at once or in pieces, which .mp4 and .npy do not hold on to. Pixels are never resized. A file appears under
its name only when it is whole. This module reads nothing back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tokenreel.data.video.encoders import ENCODERS, Show
from tokenreel.errors import DataError, nearest_name


def write_video(
    path: Path,
    frames: np.ndarray | Iterable[np.ndarray],
    frame_rate: float,
    sound: np.ndarray | None = None,
    sample_rate: int | None = None,
    lossless: bool = False,
) -> None:
    """Writes frames uint8 [T, H, W, 3], or pieces of them [n, H, W, 3] one after the other, shown at `frame_rate`
    frames per second, in the format of the path's suffix.

    .mp4: H.264 that any player shows; an odd height or width gets its last row or column twice, for 4:2:0 needs even
    ones. With `lossless` the pixels (odd sizes too) come back bit for bit, in players that know the RGB profile.
    `sound`: float [samples] in [-1, 1] at `sample_rate`, one channel, mp4 only.
    .gif: at most 256 colours a frame, times rounded to 1/100 s, equal neighbours merged into one longer frame.
    .png: contact sheet, frames from left to right in rows of 16 at most. .npy: the array itself.

    Raises DataError for another suffix, another shape or dtype, and where the file cannot be written.
    """
    with VideoWriter(path, frame_rate, sound, sample_rate, lossless) as writer:
        for piece in [frames] if isinstance(frames, np.ndarray) else frames:
            writer.add(piece)


class VideoWriter:
    """`write_video` for frames that come one piece after the other; to be used in a `with`, at whose end the file gets
    its name. Nothing is left of it if the block ends in an error.
    """

    def __init__(
        self,
        path: Path,
        frame_rate: float,
        sound: np.ndarray | None = None,
        sample_rate: int | None = None,
        lossless: bool = False,
    ) -> None:
        if path.suffix not in ENCODERS:
            raise DataError(f"{path}: no video is written as {path.suffix!r}; {nearest_name(path.suffix, ENCODERS)}")
        show = Show(frame_rate, sound, sample_rate or 0, lossless)
        _check_show(path, show)
        self._path = path
        self._unfinished = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
        self._encoder = ENCODERS[path.suffix](self._unfinished, show)
        self._size: tuple[int, ...] | None = None  # H, W of the frames so far

    def add(self, frames: np.ndarray) -> None:
        """uint8 [n, H, W, 3], any n. Raises DataError for another shape or dtype, and where they cannot be written."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not all(frames.shape[1:3]):
            raise DataError(f"{self._path}: frames must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
        size = frames.shape[1:3]
        if self._size not in (None, size):
            raise DataError(f"{self._path}: frames must have one size, got {size} after {self._size}")
        if len(frames):
            self._size = size
            with self._says_why():
                self._encoder.add(frames)

    def _finish(self) -> None:
        if self._size is None:
            raise DataError(f"{self._path}: a video needs at least one frame, got none")
        with self._says_why():
            self._encoder.finish()
            self._unfinished.replace(self._path)

    @contextmanager
    def _says_why(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._path} cannot be written: {error.strerror or error}; "
                "make room, or give a folder that can be written"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(OSError):  # the disk may be full; the error that matters has been raised by then
                self._encoder.close()
            with suppress(OSError):  # gone already when all went well; a folder that is gone needs no clearing up
                self._unfinished.unlink()


def _check_show(path: Path, show: Show) -> None:
    if not 0 < show.frame_rate <= 1000:
        raise DataError(f"{path}: frame_rate (={show.frame_rate}) must be above 0 and at most 1000 frames per second")
    if show.sound is not None and (path.suffix != ".mp4" or show.sound.ndim != 1 or show.sample_rate < 1):
        raise DataError(f"{path}: sound needs .mp4, the shape [samples] and a sample_rate; got {show.sound.shape}")
