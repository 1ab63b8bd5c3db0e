"""Encoders of the video file formats, for `data/video/writer.py`, which checks their inputs and cleans up after errors.

The encoders of .mp4 and .npy keep no frames in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import imageio.v3
import numpy as np
from av.audio.stream import AudioStream
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.lib import format as npy

QUALITY = "10"  # x264's crf: its loss (over 40 dB PSNR on Tabletop) is far below that of a tokenizer
SHEET_COLUMNS = 16  # frames per row of a contact sheet
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND  # the default's rounding costs 1 dB
AUDIO_FRAME = 1024  # samples per AAC frame
GIF_TICK = 0.01  # seconds; the durations in a GIF are multiples of it


@dataclass(frozen=True)
class EncoderSettings:
    """Frame rate and quality of a video file, and its sound."""

    frame_rate: float  # frames per second
    sound: np.ndarray | None  # float32 [samples] in [-1, 1]
    sample_rate: int  # samples per second
    lossless: bool


class Encoder(ABC):
    """Writes frames to the file `path`, created with the first ones. Every method may raise OSError."""

    def __init__(self, path: Path, settings: EncoderSettings) -> None:
        self.path, self.settings = path, settings

    @abstractmethod
    def add(self, frames: np.ndarray) -> None:
        """Writes frames, uint8 [n, H, W, 3] with n > 0."""

    @abstractmethod
    def finish(self) -> None:
        """Writes what is still buffered and closes the file. At least one frame has been added."""

    @abstractmethod
    def close(self) -> None:
        """Closes the file, complete or not. May be called more than once."""


class _Mp4(Encoder):
    _container: av.container.OutputContainer | None = None

    def add(self, frames: np.ndarray) -> None:
        frames = frames if self.settings.lossless else _even(frames)
        if self._container is None:
            self._open(*frames.shape[1:3])
        for pixels in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture.pts, picture.time_base = self._count, 1 / self._rate
            self._encode(picture.reformat(format=self._video.pix_fmt, interpolation=EXACT))
            self._count += 1

    def _open(self, height: int, width: int) -> None:
        self._rate = Fraction(self.settings.frame_rate).limit_denominator(1001)  # keeps 24000/1001 and the like exact
        self._count = 0
        self._container = av.open(self.path, "w", format="mp4", options={"movflags": "+faststart"})
        self._video = _video_stream(self._container, self._rate, height, width, self.settings.lossless)
        if self.settings.sound is not None:
            self._audio = _audio_stream(self._container, self.settings.sample_rate)

    def _encode(self, picture: av.VideoFrame | None) -> None:
        assert self._container is not None
        self._container.mux(self._video.encode(picture))

    def finish(self) -> None:
        self._encode(None)
        if self.settings.sound is not None:
            assert self._container is not None
            _encode_sound(self._container, self._audio, self.settings.sound)
        self.close()

    def close(self) -> None:
        if self._container is not None:
            self._container.close()


def _video_stream(
    container: av.container.OutputContainer, rate: Fraction, height: int, width: int, lossless: bool
) -> VideoStream:
    codec, pixel_format = ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
    # x264's macroblock tree reads memory that nothing wrote, so that one clip gives several files.
    stream.options = {"qp": "0"} if lossless else {"crf": QUALITY, "mbtree": "0"}
    stream.codec_context.thread_count = 1  # x264's output depends on it; a clip gives the same file on any machine
    return stream


def _audio_stream(container: av.container.OutputContainer, sample_rate: int) -> AudioStream:
    return container.add_stream("aac", rate=sample_rate, layout="mono", format="fltp")


def _encode_sound(container: av.container.OutputContainer, stream: AudioStream, sound: np.ndarray) -> None:
    for first in range(0, len(sound), AUDIO_FRAME):
        piece = np.ascontiguousarray(sound[None, first : first + AUDIO_FRAME], np.float32)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, first, Fraction(1, stream.rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _even(frames: np.ndarray) -> np.ndarray:
    """[T, H, W, C] with its last row and column repeated where their number is odd."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")


class _Npy(Encoder):
    """A .npy file. Its header states the number of frames, so it is written again at the end; numpy reserves enough
    space in it for any length.
    """

    _file: IO[bytes] | None = None

    def add(self, frames: np.ndarray) -> None:
        if self._file is None:
            self._file = self.path.open("wb")
            self._shape = (0, *frames.shape[1:])
            self._write_header(self._file)
        # Not `tofile` or `np.save`: on a full disk their errors do not give the reason.
        self._file.write(np.ascontiguousarray(frames).data)
        self._shape = (self._shape[0] + len(frames), *self._shape[1:])

    def _write_header(self, file: IO[bytes]) -> None:
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": self._shape})

    def finish(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        self._write_header(self._file)
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Pillow(Encoder):
    """Formats that are written at once, at the end.

    Encoded in memory: on a full disk, imageio's own writer fails again when it is garbage collected and prints that.
    """

    def __init__(self, path: Path, settings: EncoderSettings) -> None:
        super().__init__(path, settings)
        self._pieces: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        self._pieces.append(frames)

    def finish(self) -> None:
        self.path.write_bytes(self._encoded(np.concatenate(self._pieces)))

    def close(self) -> None:
        self._pieces.clear()

    @abstractmethod
    def _encoded(self, frames: np.ndarray) -> bytes:
        """The content of the file."""


class _Gif(_Pillow):
    def _encoded(self, frames: np.ndarray) -> bytes:
        tick = max(round(1 / self.settings.frame_rate / GIF_TICK), 1) * GIF_TICK
        return _in_memory(frames, ".gif", duration=1000 * tick, loop=0)


class _Png(_Pillow):
    def _encoded(self, frames: np.ndarray) -> bytes:
        return _in_memory(contact_sheet(frames), ".png")


def _in_memory(pixels: np.ndarray, extension: str, **options: float) -> bytes:
    encoded: bytes = imageio.v3.imwrite("<bytes>", pixels, plugin="pillow", extension=extension, **options)
    return encoded


def contact_sheet(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, C] -> [rows * H, columns * W, C]: frames from left to right, 16 per row, black after the last."""
    count, height, width, channels = frames.shape
    columns = min(count, SHEET_COLUMNS)
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:count] = frames
    sheet = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return sheet.reshape(rows * height, columns * width, channels)


ENCODERS: dict[str, type[Encoder]] = {".mp4": _Mp4, ".gif": _Gif, ".png": _Png, ".npy": _Npy}
