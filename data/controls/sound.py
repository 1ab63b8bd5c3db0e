"""Sound of files and clips: samples of one channel, resampling, a window for each frame.

Like frames, samples are read forward without seeking; the stream's timestamps give their positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition

from tokenreel.data.video.container import MAX_SECONDS, av_input
from tokenreel.data.video.probe import DecodeFailure

SLACK = 0.1  # seconds that may be missing at the end: AAC codes 1,024 samples at a time; muxers drop partial frames
MAX_RATE = 384_000  # samples per second
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,wav,mp3,flac,ogg"  # FFmpeg's names; no playlists
_CODECS = frozenset(("aac", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "ac3", "eac3"))  # and PCM of any kind


def read_sound(
    file: Path | BinaryIO, start: float = 0.0, on_piece: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, int]:
    """The sound as one channel: (float32 [n], samples per second); sample 0 is at `start` seconds.

    Of several streams, it is that which ffmpeg takes: marked as default, then with the most channels, then the first.
    `on_piece` is called with each piece that is decoded.
    Raises DecodeFailure if there is no sound that can be decoded, DataError if the file cannot be opened.
    """
    with _open(file) as container:
        stream = max(container.streams.audio, key=_preference, default=None)
        if stream is None:
            raise DecodeFailure("no-sound", "the file has no sound stream")
        _require_decodable(stream)
        try:
            pieces = list(_pieces(container, stream, start, on_piece))
        except av.FFmpegError as error:
            raise DecodeFailure("corrupt", f"its sound cannot be decoded ({error.strerror})") from error
        return _joined(pieces), int(stream.rate)


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """float32 [n] at `rate` samples per second -> float32 [m] at `new_rate`, low-pass filtered if that is lower."""
    if rate == new_rate or len(samples) == 0:
        return samples
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new_rate)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])


def windows(samples: np.ndarray, rate: int, times: np.ndarray, length: int) -> np.ndarray:
    """float32 [n] at `rate` samples per second, and the times [T] of frames in seconds -> float32 [T, length].

    A sound that ends up to SLACK seconds early is padded with silence. Raises DecodeFailure if it ends before that.
    """
    first = np.round(times * rate).astype(np.int64)
    missing = int(first.max()) + length - len(samples)
    if missing > SLACK * rate:
        raise DecodeFailure(
            "too-short", f"its sound lasts {len(samples) / rate:.2f} s, its frames need {first.max() / rate:.2f} s and "
            f"{length / rate:.2f} s for the last one"
        )  # fmt: skip
    padded = np.pad(samples, (0, max(0, missing)))
    return padded[first[:, None] + np.arange(length)]


def _open(file: Path | BinaryIO) -> Any:
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    try:
        return av.open(av_input(file), container_options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise DecodeFailure("unreadable", f"not a container of a known sound format ({error.strerror})") from error


def _preference(stream: Any) -> tuple[bool, int]:
    context = stream.codec_context  # None for an unknown codec
    return bool(stream.disposition & Disposition.default), context.channels if context else 0


def _require_decodable(stream: Any) -> None:
    context = stream.codec_context
    name = "unknown" if context is None else context.codec.canonical_name
    if name not in _CODECS and not name.startswith("pcm_"):
        raise DecodeFailure("unsupported-codec", f"sound codec {name}; known: PCM, {', '.join(sorted(_CODECS))}")
    if not 0 < stream.rate <= MAX_RATE:
        raise DecodeFailure("unreadable", f"its sound has {stream.rate} samples per second; the limit is {MAX_RATE}")
    context.thread_count = 1


def _pieces(
    container: Any, stream: Any, start: float, on_piece: Callable[[], None]
) -> Iterator[tuple[int, np.ndarray]]:
    """(position of the first sample, samples) of each piece of sound, in order of decoding."""
    to_float = av.AudioResampler(format="fltp")
    position = 0
    for frame in container.decode(stream):
        on_piece()
        if frame.pts is not None:
            position = round((float(frame.pts * frame.time_base) - start) * stream.rate)
        if position > MAX_SECONDS * stream.rate:
            raise DecodeFailure("bad-timestamps", f"its sound lasts more than {MAX_SECONDS / 3600:g} hours")
        frame.pts = None  # otherwise the resampler fills gaps itself
        for planes in to_float.resample(frame):
            samples = planes.to_ndarray().mean(axis=0)  # FFmpeg's own downmix makes two equal channels louder
            yield position, samples
            position += len(samples)


def _joined(pieces: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """The samples at their positions, with silence in gaps; samples before position 0 are dropped."""
    joined = np.zeros(max((position + len(samples) for position, samples in pieces), default=0), np.float32)
    for position, samples in pieces:
        kept = samples[max(0, -position) :]
        joined[max(0, position) : max(0, position) + len(kept)] = kept
    return joined
