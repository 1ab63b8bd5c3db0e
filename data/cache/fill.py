"""Fills the shards of a cache: decodes the plan's clips, reads their controls, encodes batches, writes. No torch.

The content of a shard does not depend on which process fills it: batches have one size, padded with black, and never
cross a shard; whether a row is valid is decided by decoding that row alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenreel.data.cache.manifest import InvalidRow
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.clips import ControlClip, read_control_inputs
from tokenreel.data.controls.inputs import ControlStreamEncoder
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import Plan
from tokenreel.data.sources.base import ReadRequest
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import CacheError, DataError

Encoder = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # uint8 [n, T, H, W, 3] -> tokens by stream [n, t, h, w, q]

REQUEST_BYTES = 16 << 20  # of frames in one request; clips of one video and one shard are decoded together
REQUESTS_AHEAD = 4  # for each decoding process


@dataclass(frozen=True)
class FilledShard:
    """Statistics of filling one shard."""

    shard: int
    rows: int
    invalid: int
    first_invalid: str  # a description of the first of these rows; empty if there is none
    decode_wait: float  # seconds that the encoder waited for frames
    encode: float  # seconds
    seconds: float  # in all, including writing


@dataclass(frozen=True, eq=False)
class _Span:
    """Rows of one video that are decoded by one request."""

    rows: range
    request: ReadRequest
    positions: np.ndarray  # int64 [rows, T], positions of each clip's frames among those of the request


@dataclass(frozen=True, eq=False)
class ReadClip:
    """The frames and control inputs of one row."""

    row: int
    frames: np.ndarray  # uint8 [T, H, W, 3]
    control_inputs: ControlClip  # by control stream


Clip = ReadClip | InvalidRow | None  # None: one of several rows decoded together failed


class ShardFiller:
    """Fills shards of one cache in one process, while `pool` decodes ahead of `encode`; `batch` in clips.

    `controls` encodes the control streams, `encode` the others.
    """

    def __init__(
        self,
        writer: CacheWriter,
        plan: Plan,
        pool: DecodePool,
        encode: Encoder,
        batch: int,
        controls: ControlStreamEncoder | None = None,
    ) -> None:
        self.writer = writer
        self.plan = plan
        self.pool = pool
        self.encode = encode
        self.batch = batch
        self.controls = controls
        self._ahead = REQUESTS_AHEAD * max(1, pool.workers)

    def fill(self, shards: Sequence[int]) -> Iterator[FilledShard]:
        """Fills and commits `shards`. Raises what decoding, encoding or writing raises; an invalid clip raises nothing.

        A shard in which clips decoded together failed is filled again, last, with each clip decoded alone, so that
        which rows are invalid does not depend on their neighbours.
        """
        retries = []
        clips = self._clips(shards, together=True)
        for shard in shards:
            filled = self._fill_shard(shard, clips)
            if filled is None:
                retries.append(shard)
            else:
                yield filled
        clips = self._clips(retries, together=False)
        for shard in retries:
            filled = self._fill_shard(shard, clips)
            assert filled is not None  # a clip decoded alone is either valid or invalid
            yield filled

    def _fill_shard(self, shard: int, clips: Iterator[Clip]) -> FilledShard | None:
        """Fills a shard; None if clips decoded together failed. The shard's clips are consumed in either case."""
        started = time.perf_counter()
        rows = self._rows(shard)
        batches, invalid, undecided = [], [], False
        decode_wait = encode = 0.0
        for first in range(rows.start, rows.stop, self.batch):
            start = time.perf_counter()
            batch = [next(clips) for _ in range(first, min(first + self.batch, rows.stop))]
            ready = time.perf_counter()
            undecided |= any(clip is None for clip in batch)
            if not undecided:
                batches.append(self._encode(batch))
            invalid += [clip for clip in batch if isinstance(clip, InvalidRow)]
            decode_wait += ready - start
            encode += time.perf_counter() - ready
        for video in dict.fromkeys(self.plan.video[rows.start : rows.stop].tolist()):
            self.plan.require_content(self.pool.source, video)  # after it was read, so that a change meanwhile is found
        if undecided:
            return None
        tokens = {name: np.concatenate([batch[name] for batch in batches]) for name in self.writer.header.streams}
        self.writer.put(shard, {**tokens, **self._columns(rows, invalid)}, invalid)
        bad = f"{self.plan.video_id(invalid[0].row)}: {invalid[0].reason} ({invalid[0].detail})" if invalid else ""
        return FilledShard(shard, len(rows), len(invalid), bad, decode_wait, encode, time.perf_counter() - started)

    def _encode(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        """Tokens of a batch by stream, fill_value where a clip is invalid. Raises CacheError for invalid tokens."""
        framing = self.plan.config.framing
        frames = np.zeros((self.batch, self.plan.config.frames, framing.height, framing.width, 3), dtype=np.uint8)
        valid = np.array([isinstance(clip, ReadClip) for clip in clips])
        for i, clip in enumerate(clips):
            if isinstance(clip, ReadClip):
                frames[i] = clip.frames
        encoded = {**self.encode(frames), **self._encode_controls(clips)}
        tokens = {}
        for stream in self.writer.header.spec.streams:
            layout = self.writer.header.streams[stream.name]
            indices, expected = encoded[stream.name], (self.batch, *layout.row_shape)
            if indices.shape != expected or indices.min() < 0 or indices.max() >= stream.codebook_size:
                raise CacheError(
                    f"stream {stream.name!r}: the encoder made tokens {indices.shape} from {indices.min()} to "
                    f"{indices.max()}; its spec says {expected} below {stream.codebook_size}"
                )
            tokens[stream.name] = indices[: len(clips)].astype(layout.dtype)
            tokens[stream.name][~valid] = layout.fill_value
        return tokens

    def _encode_controls(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        """Tokens [batch, t, h, w, q] by control stream, 0 where a clip is invalid. Each clip is encoded alone."""
        if self.controls is None:
            return {}
        header = self.writer.header
        shapes = {name: header.streams[name].row_shape for name in self.controls.sources}
        tokens = {name: np.zeros((self.batch, *shape), dtype=np.int64) for name, shape in shapes.items()}
        for i, clip in enumerate(clips):
            if isinstance(clip, ReadClip):
                for name, indices in self._control_tokens(self.controls, clip).items():
                    assert indices.shape == shapes[name]  # else numpy would broadcast it
                    tokens[name][i] = indices
        return tokens

    def _control_tokens(self, controls: ControlStreamEncoder, clip: ReadClip) -> Mapping[str, np.ndarray]:
        try:
            return controls.encode(clip.control_inputs)
        except DataError as error:
            raise DataError(f"{self.plan.video_id(clip.row)}: {error}") from error

    def _columns(self, rows: range, invalid: Iterable[InvalidRow]) -> dict[str, np.ndarray]:
        part = slice(rows.start, rows.stop)
        valid = np.ones(len(rows), dtype=np.uint8)
        valid[[bad.row - rows.start for bad in invalid]] = 0
        plan = self.plan
        return {"valid": valid, "label": plan.label[part], "source": plan.video[part], "first_frame": plan.first[part]}

    def _rows(self, shard: int) -> range:
        return self.writer.header.columns["valid"].rows_of(shard)

    def _clips(self, shards: Sequence[int], together: bool) -> Iterator[Clip]:
        """The clips of all rows of `shards` in order, decoded ahead across shards."""
        requested: deque[_Span] = deque()

        def requests() -> Iterator[ReadRequest]:
            for shard in shards:
                for span in self._spans(shard, together):
                    requested.append(span)
                    yield span.request

        results = self.pool.read(requests(), self._ahead)
        for result, inputs in zip(results, self._control_inputs(shards, together), strict=True):
            span = requested.popleft()
            failure = result.failure or (inputs if isinstance(inputs, DecodeFailure) else None)
            if result.frames is not None and not isinstance(inputs, DecodeFailure):
                frames = (result.frames[positions] for positions in span.positions)
                yield from (ReadClip(*clip) for clip in zip(span.rows, frames, inputs, strict=True))
            elif len(span.rows) > 1:
                yield from (None for _ in span.rows)
            else:
                assert failure is not None  # a pool returns frames or the reason
                yield InvalidRow(span.rows[0], failure.reason, failure.detail)

    def _control_inputs(self, shards: Sequence[int], together: bool) -> Iterator[list[ControlClip] | DecodeFailure]:
        """The control inputs of the rows of each span, or why they have none."""
        rows = (span.rows for shard in shards for span in self._spans(shard, together))
        if self.controls is None:
            return ([{} for _ in span] for span in rows)
        return read_control_inputs(self.plan, self.pool, self.controls.sources, rows, self._ahead)

    def _spans(self, shard: int, together: bool) -> Iterator[_Span]:
        framing = self.plan.config.framing
        clip_bytes = self.plan.config.frames * framing.height * framing.width * 3
        limit = max(1, REQUEST_BYTES // clip_bytes) if together else 1
        rows = self._rows(shard)
        start = rows.start
        for row in range(rows.start + 1, rows.stop + 1):
            full = row - start == limit
            if row == rows.stop or full or self.plan.video[row] != self.plan.video[start]:
                yield self._span(range(start, row))
                start = row

    def _span(self, rows: range) -> _Span:
        indices = np.stack([self.plan.indices(row) for row in rows])
        frames, inverse = np.unique(indices, return_inverse=True)
        request = ReadRequest(int(self.plan.video[rows.start]), frames, self.plan.config.framing)
        return _Span(rows, request, inverse.reshape(indices.shape))
