"""Writes a clip in the format of the file's suffix: .mp4 (with sound), .gif, .png (all frames in one picture) or .npy.

Frames are given at once or in pieces, which .mp4 and .npy do not keep in memory. Pixels are never resized. A file
appears under its name only when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tokenreel.data.video.encoders import ENCODERS, EncoderSettings
from tokenreel.errors import DataError, nearest_name


def write_video(
    path: str | Path,
    frames: np.ndarray | Iterable[np.ndarray],
    frame_rate: float,
    sound: np.ndarray | None = None,
    sample_rate: int | None = None,
    lossless: bool = False,
) -> None:
    """Writes frames uint8 [T, H, W, 3], or consecutive pieces of them [n, H, W, 3], at `frame_rate` frames per second,
    in the format of the path's suffix.

    .mp4: H.264 that every player supports; at an odd height or width the last row or column is repeated, as 4:2:0
    requires even sizes. With `lossless` the pixels (odd sizes too) are exact, in players that support the RGB profile.
    `sound`: float [samples] in [-1, 1] at `sample_rate`, one channel, mp4 only.
    .gif: at most 256 colours per frame, times rounded to 1/100 s, equal consecutive frames merged into one.
    .png: contact sheet, frames from left to right in rows of up to 16. .npy: the array itself.

    Raises DataError for any other suffix, shape or dtype, and where the file cannot be written.
    """
    with VideoWriter(Path(path), frame_rate, sound, sample_rate, lossless) as writer:
        for piece in [frames] if isinstance(frames, np.ndarray) else frames:
            writer.add(piece)


class VideoWriter:
    """A context manager that writes a video piece by piece, as `write_video`. The file appears under its name when the
    block ends; if it ends in an error, no file remains.
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
            raise DataError(f"{path}: unknown video format {path.suffix!r}; {nearest_name(path.suffix, ENCODERS)}")
        settings = EncoderSettings(frame_rate, sound, sample_rate or 0, lossless)
        _check_settings(path, settings)
        self._path = path
        self._unfinished = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
        self._encoder = ENCODERS[path.suffix](self._unfinished, settings)
        self._size: tuple[int, ...] | None = None  # H, W of the frames so far

    def add(self, frames: np.ndarray) -> None:
        """Adds frames, uint8 [n, H, W, 3], any n. Raises DataError for another shape or dtype, or if writing fails."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not all(frames.shape[1:3]):
            raise DataError(f"{self._path}: frames must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
        size = frames.shape[1:3]
        if self._size not in (None, size):
            raise DataError(f"{self._path}: frames must have one size, got {size} after {self._size}")
        if len(frames):
            self._size = size
            with self._as_data_error():
                self._encoder.add(frames)

    def _finish(self) -> None:
        if self._size is None:
            raise DataError(f"{self._path}: a video needs at least one frame, got none")
        with self._as_data_error():
            self._encoder.finish()
            self._unfinished.replace(self._path)

    @contextmanager
    def _as_data_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._path} cannot be written: {error.strerror or error}; free disk space, or give a writable folder"
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
            with suppress(OSError):  # the disk may be full; the relevant error has been raised already
                self._encoder.close()
            with suppress(OSError):  # already renamed on success; if the folder is gone, nothing is left to remove
                self._unfinished.unlink()


def _check_settings(path: Path, settings: EncoderSettings) -> None:
    if not 0 < settings.frame_rate <= 1000:
        raise DataError(f"{path}: frame_rate (={settings.frame_rate}) must be in (0, 1000] frames per second")
    if settings.sound is not None and (path.suffix != ".mp4" or settings.sound.ndim != 1 or settings.sample_rate < 1):
        raise DataError(
            f"{path}: sound must be [samples] with a positive sample_rate, in an .mp4 file; got the shape "
            f"{settings.sound.shape} and sample_rate (={settings.sample_rate})"
        )
