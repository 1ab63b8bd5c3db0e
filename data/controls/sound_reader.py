"""Reads ranges of the sound of a file: one channel, at any rate, in bounded memory.

The stream's timestamps give the positions of its samples. A range is the same samples whatever was read before: those
that decoding from the beginning gives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Self

import av
import numpy as np
from av.stream import Disposition

from tokenreel.data.video.container import MAX_SECONDS, av_input
from tokenreel.data.video.probe import DecodeFailure

MAX_RATE = 384_000  # samples per second
MIN_SKIPPED_S = 10.0  # decoding less costs less than seeking
_PREROLL_S = 2.0  # decoded and dropped; an MP3 frame takes bits of those before it, at most 511 bytes
_TRANSIENT = 64  # resampled samples that depend on where resampling began; FFmpeg's filter has 32 taps
_MIN_BLOCK = 4096  # samples that are resampled together
_SILENCE = 1 << 16  # samples at a time, in gaps
_MAX_BACK_S = 0.1  # by which rounded times may run backwards
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,wav,mp3,flac,ogg"  # FFmpeg's names; no playlists
_CODECS = frozenset(("aac", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "ac3", "eac3"))  # and PCM of any kind
# Decoded from a pre-roll they give the samples of decoding from the beginning. Not AAC, MP2, AC-3 and E-AC-3, whose
# decoders add noise from generators that run on from frame to frame, nor Opus, which predicts across all frames.
_SOUGHT_CODECS = frozenset(("mp3", "vorbis", "flac", "alac"))  # and PCM
_SOUGHT_CONTAINERS = ("mov", "matroska")  # whose times after seeking are those of reading from the beginning

Piece = tuple[int, np.ndarray]  # position of the first sample, samples


class SoundReader:
    """The sound of an open file; sample 0 is at `start` seconds. `rate`: samples per second, None for the file's own.

    Of several streams, it is that which ffmpeg takes: marked as default, then with the most channels, then the first.
    Ranges in ascending order cost one pass over the file. For others it begins again: near the range where the codec
    allows that, else at the beginning.
    """

    def __init__(
        self,
        file: Path | BinaryIO,
        start: float = 0.0,
        rate: int | None = None,
        on_piece: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_piece` is called with each piece that is decoded.

        Raises DecodeFailure if there is no sound that can be decoded, DataError if the file cannot be opened.
        """
        self._file, self._start, self._on_piece = file, start, on_piece
        self._open()
        self._own_rate = int(self._stream.rate)
        self.rate = self._own_rate if rate is None else rate
        codec = self._stream.codec_context.codec.canonical_name
        self._sought = self._container.format.name.startswith(_SOUGHT_CONTAINERS) and (
            codec in _SOUGHT_CODECS or codec.startswith("pcm_")
        )
        self._blocks: Iterator[np.ndarray] | None = None  # consecutive samples; None: a new pass must begin
        self._kept = np.zeros(0, np.float32)  # the last samples of this pass
        self._end = 0  # position after them

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def read(self, first: int = 0, stop: int = sys.maxsize) -> np.ndarray:
        """float32: the samples [first, stop), fewer where the sound ends. Raises DecodeFailure if one is damaged."""
        jump = self._sought and first - self._end > MIN_SKIPPED_S * self.rate
        if self._blocks is None or first < self._end - len(self._kept) or jump:
            self._begin(first)
        try:
            return self._read(first, stop)
        except DecodeFailure:
            if not self._sought:
                raise
        self._begin(first)  # the damage may lie before the range, where another order would not have met it
        return self._read(first, stop)

    def _read(self, first: int, stop: int) -> np.ndarray:
        """The range in what remains of this pass."""
        assert self._blocks is not None
        blocks = [self._kept]
        try:
            while self._end < stop and (block := next(self._blocks, None)) is not None:
                self._end += len(block)
                if self._end > first:
                    blocks.append(block)
                else:
                    blocks.clear()
        except av.FFmpegError as error:
            self._blocks = None
            raise DecodeFailure("corrupt", f"its sound cannot be decoded ({error.strerror})") from error
        except DecodeFailure:
            self._blocks = None
            raise
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        self._kept = samples[max(0, len(samples) - (self._end - first)) :] if self._end > first else samples[:0]
        return self._kept[: stop - first].copy()

    def _open(self) -> None:
        self._container = _open(self._file)
        try:
            stream = max(self._container.streams.audio, key=_preference, default=None)
            if stream is None:
                raise DecodeFailure("no-sound", "the file has no sound stream")
            _require_decodable(stream)
            self._stream = stream
        except BaseException:
            self._container.close()
            raise

    def _begin(self, first: int) -> None:
        """Begins a pass that gives the sample `first`."""
        self._kept = np.zeros(0, np.float32)
        # Resampling begins where a sample of the new rate coincides with one of the old rate, as it does at 0, and with
        # the first of a block, as blocks change the last bits of samples at unusual rates.
        ratio = Fraction(self._own_rate, self.rate)
        periods = -(-_MIN_BLOCK // ratio.numerator)
        block, new_block = periods * ratio.numerator, periods * ratio.denominator
        number = max(0, (first - _TRANSIENT) // new_block)
        origin, dropped = number * block, _TRANSIENT if number else 0
        pieces = self._pieces_near(origin) if self._sought and origin > _PREROLL_S * self._own_rate else None
        if pieces is None:
            self._container.close()
            self._open()
            pieces = self._pieces(0, origin)
        blocks = self._consecutive(pieces, origin)
        if self.rate != self._own_rate:
            blocks = resampled(_regrouped(blocks, block), self._own_rate, self.rate)
        self._blocks, self._end = _without(blocks, dropped), number * new_block + dropped

    def _pieces_near(self, origin: int) -> Iterator[Piece] | None:
        """Pieces from before the sample `origin` of the file's own rate; None if seeking does not lead there."""
        seconds = self._start + origin / self._own_rate - _PREROLL_S
        try:
            self._container.seek(int(seconds / self._stream.time_base), stream=self._stream)
            pieces = self._pieces(None, 0)
            first = next(pieces, None)
        except av.FFmpegError:
            return None
        if first is None or first[0] > origin - _PREROLL_S / 2 * self._own_rate:
            return None
        return chain((first,), pieces)

    def _pieces(self, position: int | None, origin: int) -> Iterator[Piece]:
        """In order of decoding, at the file's own rate, without those that end before `origin`; none if the first one
        has no time and `position` is None.
        """
        to_float = av.AudioResampler(format="fltp")
        rate = self._own_rate
        for frame in self._container.decode(self._stream):
            self._on_piece()
            if frame.pts is not None:
                after, position = position, round((float(frame.pts * frame.time_base) - self._start) * rate)
                if position > MAX_SECONDS * rate:
                    raise DecodeFailure("bad-timestamps", f"its sound lasts more than {MAX_SECONDS / 3600:g} hours")
                if 0 < position < (after or 0) - _MAX_BACK_S * rate:
                    raise DecodeFailure("bad-timestamps", "the times of its sound run backwards")
            if position is None:
                return
            if position + frame.samples <= origin:
                position += frame.samples
                continue
            frame.pts = None  # otherwise the resampler fills gaps itself
            for planes in to_float.resample(frame):
                samples = planes.to_ndarray().mean(axis=0)  # FFmpeg's own downmix makes two equal channels louder
                yield position, samples
                position += len(samples)

    def _consecutive(self, pieces: Iterator[Piece], origin: int) -> Iterator[np.ndarray]:
        """Samples from `origin` on, with silence in gaps; where two pieces overlap, the later one counts."""
        held, at = np.zeros(0, np.float32), origin
        for position, samples in pieces:
            if position + len(samples) <= at:
                continue
            samples, position = samples[max(0, at - position) :], max(at, position)
            yield held[: position - at]
            for gap in range(at + len(held), position, _SILENCE):
                self._on_piece()
                yield np.zeros(min(_SILENCE, position - gap), np.float32)
            rest = held[position - at + len(samples) :]
            held, at = np.concatenate([samples, rest]) if len(rest) else samples, position
        yield held


def resampled(blocks: Iterator[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Consecutive float32 samples at `rate` samples per second -> the same at `new_rate`, low-pass filtered if that is
    lower.
    """
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new_rate)
    any_samples = False
    for block in blocks:
        if not len(block):
            continue
        any_samples = True
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block[None], np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        yield from (piece.to_ndarray()[0] for piece in resampler.resample(frame))
    if any_samples:
        yield from (piece.to_ndarray()[0] for piece in resampler.resample(None))


def _regrouped(blocks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Blocks of `size` samples, but for the last one."""
    waiting: list[np.ndarray] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(waiting)
            yield from (joined[at : at + size] for at in range(0, count - size + 1, size))
            waiting, count = [joined[count - count % size :]], count % size
    yield np.concatenate(waiting)


def _without(blocks: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The blocks without their first `count` samples."""
    for block in blocks:
        yield block[count:]
        count = max(0, count - len(block))


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
