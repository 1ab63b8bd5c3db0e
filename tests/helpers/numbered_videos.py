"""Videos whose frames encode their number in eight bars, so that a test can identify a frame by its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 48, 64
TICK = Fraction(1, 12000)  # seconds; a multiple of every rate used here


def numbered_frames(count: int) -> np.ndarray:
    """uint8 [count, 48, 64, 3]; bar k of frame i is bright where bit k of i is set. The rest is noise, so that no
    frame is compressed to almost nothing."""
    frames = np.random.default_rng(0).integers(0, 90, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for number in range(count):
        for bit in range(8):
            frames[number, 12:36, bit * 8 : bit * 8 + 8] = 230 if number >> bit & 1 else 20
    return frames


def numbers_of(frames: np.ndarray) -> list[int]:
    """The numbers encoded in uint8 frames [n, H, W, 3] of any size."""
    height, width = frames.shape[1:3]
    middles = (2 * np.arange(8) + 1) * width // 16
    bright = frames[:, height // 2, middles].mean(axis=-1) > 125
    return [int(number) for number in (bright << np.arange(8)).sum(axis=1)]


def write_numbered(
    path: Path,
    count: int,
    codec: str = "libx264",
    times: Sequence[Fraction] | None = None,
    b_frames: int = 2,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
) -> None:
    """Writes a video of `count` numbered frames at `times` in seconds, by default at 24 frames per second."""
    with av.open(str(path), "w", container_options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as file:
        stream = file.add_stream(codec, rate=24, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if codec in ("libx264", "mpeg4"):
            stream.codec_context.max_b_frames = b_frames
        if times is not None:
            stream.codec_context.time_base = TICK
        for number, pixels in enumerate(numbered_frames(count)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[number] / TICK), TICK
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def write_sound(path: Path) -> None:
    """Writes a file with one second of a tone and without a video stream."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        tone = np.sin(np.arange(16000, dtype=np.float32) / 7)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
