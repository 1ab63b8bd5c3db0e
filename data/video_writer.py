"""Writes a clip to a file whose name says how: .mp4 (with sound), .gif, .png (all frames in one picture) or .npy.

Pixels are never resized. A file appears under its name only when it is whole. This module reads nothing back.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3
import numpy as np
from av.audio.stream import AudioStream
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from tokenreel.errors import DataError, nearest_name

QUALITY = "10"  # x264's crf: its loss (over 40 dB on drawn clips) stays far below a tokenizer's
SHEET_COLUMNS = 16  # frames side by side in a contact sheet before the next row starts
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND  # the default's rounding costs 1 dB
AUDIO_FRAME = 1024  # samples that AAC codes at a time
GIF_TICK = 0.01  # seconds; a GIF's times are whole ticks


@dataclass(frozen=True)
class _Clip:
    frames: np.ndarray  # uint8 [T, H, W, 3]
    frame_rate: float
    sound: np.ndarray | None  # float32 [samples] in [-1, 1]
    sample_rate: int
    lossless: bool


def write_video(
    path: Path,
    frames: np.ndarray,
    frame_rate: float,
    sound: np.ndarray | None = None,
    sample_rate: int | None = None,
    lossless: bool = False,
) -> None:
    """Writes frames uint8 [T, H, W, 3], shown at `frame_rate` frames a second, in the format of the path's suffix.

    .mp4: H.264 that any player shows; an odd height or width gets its last row or column twice, for 4:2:0 needs even
    ones. With `lossless` the pixels (odd sizes too) come back bit for bit, in players that know the RGB profile.
    `sound`: float [samples] in [-1, 1] at `sample_rate`, one channel, mp4 only.
    .gif: at most 256 colours a frame, times rounded to 1/100 s, equal neighbours merged into one longer frame.
    .png: contact sheet, frames from left to right in rows of 16 at most. .npy: the array itself.

    Raises DataError for another suffix, another shape or dtype, and where the file cannot be written.
    """
    writer = _writer(path)
    clip = _Clip(frames, frame_rate, sound, sample_rate or 0, lossless)
    _check(path, clip)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        writer(unfinished, clip)
        unfinished.replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; make room, or give a folder that can be written"
        ) from error
    finally:
        with suppress(OSError):  # gone already when all went well; a folder that is gone needs no clearing up
            unfinished.unlink()


def _writer(path: Path) -> Callable[[Path, _Clip], None]:
    if path.suffix not in _WRITERS:
        raise DataError(f"{path}: no video is written as {path.suffix!r}; {nearest_name(path.suffix, _WRITERS)}")
    return _WRITERS[path.suffix]


def _check(path: Path, clip: _Clip) -> None:
    frames, rate = clip.frames, clip.frame_rate
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise DataError(f"{path}: frames must be uint8 [T, H, W, 3], at least one; got {frames.dtype} {frames.shape}")
    if not 0 < rate <= 1000:
        raise DataError(f"{path}: frame_rate (={rate}) must be above 0 and at most 1000 frames a second")
    if clip.sound is not None and (path.suffix != ".mp4" or clip.sound.ndim != 1 or clip.sample_rate < 1):
        raise DataError(f"{path}: sound needs .mp4, the shape [samples] and a sample_rate; got {clip.sound.shape}")


def _write_mp4(path: Path, clip: _Clip) -> None:
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = _video_stream(container, clip)
        audio = None if clip.sound is None else _audio_stream(container, clip.sample_rate)
        frames = clip.frames if clip.lossless else _even(clip.frames)
        for number, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture.pts, picture.time_base = number, 1 / _rate(clip)
            container.mux(video.encode(picture.reformat(format=video.pix_fmt, interpolation=EXACT)))
        container.mux(video.encode(None))
        if audio is not None and clip.sound is not None:
            _encode_sound(container, audio, clip.sound)


def _video_stream(container: av.container.OutputContainer, clip: _Clip) -> VideoStream:
    codec, pixel_format = ("libx264rgb", "rgb24") if clip.lossless else ("libx264", "yuv420p")
    stream = container.add_stream(codec, rate=_rate(clip))
    height, width = clip.frames.shape[1:3] if clip.lossless else _even(clip.frames[:1]).shape[1:3]
    stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
    stream.options = {"qp": "0"} if clip.lossless else {"crf": QUALITY}
    stream.codec_context.thread_count = 1  # x264's output depends on it: one clip, one file, on any machine
    return stream


def _rate(clip: _Clip) -> Fraction:
    return Fraction(clip.frame_rate).limit_denominator(1001)  # 24000/1001 and the like stay what they are


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
    """[T, H, W, C] with its last row and column doubled where their number is odd."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")


def _write_gif(path: Path, clip: _Clip) -> None:
    tick = max(round(1 / clip.frame_rate / GIF_TICK), 1) * GIF_TICK
    path.write_bytes(_pillow(clip.frames, ".gif", duration=1000 * tick, loop=0))


def _write_png(path: Path, clip: _Clip) -> None:
    path.write_bytes(_pillow(contact_sheet(clip.frames), ".png"))


def _pillow(pixels: np.ndarray, extension: str, **options: float) -> bytes:
    """Encoded in memory: on a full disk imageio's writer would fail once more when it is collected, and print that."""
    encoded: bytes = imageio.v3.imwrite("<bytes>", pixels, plugin="pillow", extension=extension, **options)
    return encoded


def contact_sheet(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, C] -> [rows * H, columns * W, C]: frames from left to right, 16 a row, black after the last."""
    count, height, width, channels = frames.shape
    columns = min(count, SHEET_COLUMNS)
    rows = -(-count // columns)
    full = np.zeros((rows * columns, height, width, channels), np.uint8)
    full[:count] = frames
    table = full.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return table.reshape(rows * height, columns * width, channels)


def _write_npy(path: Path, clip: _Clip) -> None:
    encoded = io.BytesIO()  # straight into a file numpy would tell of a full disk without saying so
    np.save(encoded, clip.frames, allow_pickle=False)
    path.write_bytes(encoded.getbuffer())


_WRITERS: dict[str, Callable[[Path, _Clip], None]] = {
    ".mp4": _write_mp4, ".gif": _write_gif, ".png": _write_png, ".npy": _write_npy,
}  # fmt: skip
