"""The rate of random clips from a video of three hours, relative to that of random clips from its first minute.

    python -m tokenreel.benchmarks.speed.long_video_seek [--minutes 180] [--clips 40]

Goal: at most 1.5 times the time, for each codec. The video is one minute of Tabletop, encoded once with a keyframe
every 10 seconds and repeated without encoding it again. Each clip of the first minute is compared with the equal one of
a random minute; they take turns in one reader. Opening the file, which reads all of its packets, is timed apart; so is
one clip at the end that is decoded from the beginning (--forward).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.reader import VideoReader

HEIGHT, WIDTH, RATE, GROUP = 96, 160, 25, 250
FRAMES = 60 * RATE  # of the minute that is repeated
CLIP = 16  # frames
GOAL = 1.5
X265 = f"keyint={GROUP}:open-gop=1:log-level=none"


@dataclass(frozen=True)
class Codec:
    """An encoder with its options, and the container of its files."""

    encoder: str
    suffix: str
    options: dict[str, str]


CODECS = {
    "h264": Codec("libx264", ".mp4", {"preset": "veryfast", "g": str(GROUP)}),
    "h264, open groups": Codec("libx264", ".mp4", {"x264-params": f"open-gop=1:keyint={GROUP}", "preset": "veryfast"}),
    "h264 in MPEG-TS": Codec("libx264", ".ts", {"preset": "veryfast", "g": str(GROUP)}),
    "hevc, open groups": Codec("libx265", ".mp4", {"preset": "ultrafast", "x265-params": X265}),
    "vp9": Codec("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8", "g": str(GROUP)}),
    "av1": Codec("libsvtav1", ".mp4", {"preset": "12", "g": str(GROUP)}),
    "mpeg4": Codec("mpeg4", ".mp4", {"bf": "2", "g": str(GROUP)}),
    "mpeg2": Codec("mpeg2video", ".ts", {"bf": "2", "g": str(GROUP)}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=180)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--codec", action="append", choices=CODECS, help="one codec; may be given again (default: all)")
    parser.add_argument("--forward", action="store_true", help="also decode a clip at the end from the beginning")
    flags = parser.parse_args()
    pixels = minute_of_frames()
    for name in flags.codec or CODECS:
        with tempfile.TemporaryDirectory() as folder:
            path = write_long(Path(folder), CODECS[name], pixels, flags.minutes)
            print(f"{name}: {measure(path, flags.clips, flags.forward)}", flush=True)  # noqa: T201


def measure(path: Path, clips: int, forward: bool) -> str:
    started = time.perf_counter()
    reader = VideoReader(path)
    opened = time.perf_counter() - started
    frames = reader.probe.frames
    generator = np.random.default_rng(0)
    near, far = [], []
    for _ in range(clips):
        first, minute = int(generator.integers(FRAMES - CLIP)), int(generator.integers(1, frames // FRAMES))
        near.append(seconds_of(reader, first))
        far.append(seconds_of(reader, first + minute * FRAMES))
    ratio = sum(far) / sum(near)
    found = (
        f"{frames:,} frames, {path.stat().st_size / 1e6:.0f} MB; clips of {CLIP} per second: "
        f"{1 / statistics.mean(near):.1f} in the first minute, {1 / statistics.mean(far):.1f} in other minutes, "
        f"{ratio:.2f} times the time (goal {GOAL}); opening {opened:.1f} s"
    )
    if forward:
        reader.index.keyframes.clear()
        found += f"; a clip at the end from the beginning {seconds_of(reader, frames - CLIP):.1f} s"
    return found


def seconds_of(reader: VideoReader, first: int) -> float:
    started = time.perf_counter()
    reader.read(first + np.arange(CLIP), Framing(HEIGHT, WIDTH))
    return time.perf_counter() - started


def minute_of_frames() -> np.ndarray:
    """uint8 [FRAMES, H, W, 3]: Tabletop clips one after the other."""
    length = 100
    source = open_source(f"tabletop:?videos={FRAMES // length}&seed=0&frames={length}&size={WIDTH}")
    framing = Framing(HEIGHT, WIDTH)
    return np.concatenate([source.read(video, np.arange(length), framing) for video in range(FRAMES // length)])


def write_long(folder: Path, codec: Codec, pixels: np.ndarray, minutes: int) -> Path:
    """A video that shows `pixels` `minutes` times."""
    minute, path = folder / f"minute{codec.suffix}", folder / f"long{codec.suffix}"
    with av.open(str(minute), "w") as file:
        stream = file.add_stream(codec.encoder, rate=RATE, options=codec.options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in pixels:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    with av.open(str(minute)) as file, av.open(str(path), "w") as out:
        stream = file.streams.video[0]
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in file.demux(stream) if p.size]
        copy = out.add_stream_from_template(stream, opaque=True)
        for packet in repeated(packets, minutes, round(60 / stream.time_base)):
            packet.stream, packet.time_base = copy, stream.time_base
            out.mux(packet)
    return path


def repeated(packets: list[tuple[bytes, int, int | None, bool]], times: int, period: int) -> Iterator[Any]:
    """The packets (data, presentation time, decode time, keyframe) again and again, `period` later each time."""
    for number in range(times):
        for data, pts, dts, keyframe in packets:
            packet = av.Packet(data)
            packet.pts, packet.is_keyframe = pts + number * period, keyframe
            packet.dts = (pts if dts is None else dts) + number * period
            yield packet


if __name__ == "__main__":
    main()
