"""Filling the shards of a cache: decode the clips of the plan, encode them in batches, put the shard. No torch here.

What a shard holds does not depend on who fills it: batches have one size, padded with black, and never cross a shard;
whether a row is valid is decided by decoding that row alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenreel.data.cache.manifest import InvalidRow
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.decode_pool import DecodePool, ReadRequest
from tokenreel.data.plan import Plan
from tokenreel.errors import CacheError

Encoder = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # uint8 [n, T, H, W, 3] -> codes by stream [n, t, h, w, q]
Clip = np.ndarray | InvalidRow | None  # frames [T, H, W, 3]; None: one of several rows decoded together failed

REQUEST_BYTES = 16 << 20  # of frames in one request; clips of one video that lie in one shard are decoded together
REQUESTS_AHEAD = 4


@dataclass(frozen=True)
class FilledShard:
    """What filling one shard took."""

    shard: int
    rows: int
    invalid: int
    decode_wait: float  # seconds in which the encoder had to wait for frames
    encode: float  # seconds
    seconds: float  # with writing


@dataclass(frozen=True, eq=False)
class _Span:
    """Rows of one video that are decoded by one request."""

    rows: range
    request: ReadRequest
    places: np.ndarray  # int64 [rows, T], where each clip's frames lie among the request's


class ShardFiller:
    """Fills shards of one cache in one process, while `pool` decodes ahead of `encode`; `batch` in clips."""

    def __init__(self, writer: CacheWriter, plan: Plan, pool: DecodePool, encode: Encoder, batch: int) -> None:
        self.writer = writer
        self.plan = plan
        self.pool = pool
        self.encode = encode
        self.batch = batch

    def fill(self, shards: Sequence[int]) -> Iterator[FilledShard]:
        """Fills and commits `shards`. Raises what decoding, encoding or writing raises; a bad clip raises nothing.

        A shard in which clips decoded together failed is filled a second time, last, with each clip decoded alone:
        which rows are invalid then does not depend on their neighbours.
        """
        again = []
        clips = self._clips(shards, together=True)
        for shard in shards:
            filled = self._fill_shard(shard, clips)
            if filled is None:
                again.append(shard)
            else:
                yield filled
        clips = self._clips(again, together=False)
        for shard in again:
            filled = self._fill_shard(shard, clips)
            assert filled is not None  # a clip decoded alone is either there or invalid
            yield filled

    def _fill_shard(self, shard: int, clips: Iterator[Clip]) -> FilledShard | None:
        """None if clips that were decoded together failed; the shard's clips are used up all the same."""
        started = time.perf_counter()
        rows = self._rows(shard)
        batches, invalid, undecided = [], [], False
        decode_wait = encode = 0.0
        for first in range(rows.start, rows.stop, self.batch):
            begin = time.perf_counter()
            batch = [next(clips) for _ in range(first, min(first + self.batch, rows.stop))]
            ready = time.perf_counter()
            undecided |= any(clip is None for clip in batch)
            if not undecided:
                batches.append(self._encode(batch))
            invalid += [clip for clip in batch if isinstance(clip, InvalidRow)]
            decode_wait += ready - begin
            encode += time.perf_counter() - ready
        if undecided:
            return None
        codes = {name: np.concatenate([batch[name] for batch in batches]) for name in self.writer.header.streams}
        self.writer.put(shard, {**codes, **self._columns(rows, invalid)}, invalid, time.perf_counter() - started)
        return FilledShard(shard, len(rows), len(invalid), decode_wait, encode, time.perf_counter() - started)

    def _encode(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        """Codes of one batch by stream, fill where a clip is invalid. Raises CacheError for codes that are none."""
        framing = self.plan.config.framing
        frames = np.zeros((self.batch, self.plan.config.frames, framing.height, framing.width, 3), dtype=np.uint8)
        valid = np.array([isinstance(clip, np.ndarray) for clip in clips])
        for i, clip in enumerate(clips):
            if isinstance(clip, np.ndarray):
                frames[i] = clip
        encoded = self.encode(frames)
        codes = {}
        for stream in self.writer.header.spec.streams:
            layout = self.writer.header.streams[stream.name]
            made = encoded[stream.name]
            if made.shape != (self.batch, *layout.row_shape) or made.min() < 0 or made.max() >= stream.codes:
                raise CacheError(
                    f"the tokenizer made codes {made.shape} from {made.min()} to {made.max()} for its stream "
                    f"{stream.name!r}; its spec says {(self.batch, *layout.row_shape)} below {stream.codes}"
                )
            codes[stream.name] = made[: len(clips)].astype(layout.dtype)
            codes[stream.name][~valid] = layout.fill
        return codes

    def _columns(self, rows: range, invalid: Iterable[InvalidRow]) -> dict[str, np.ndarray]:
        part = slice(rows.start, rows.stop)
        valid = np.ones(len(rows), dtype=np.uint8)
        valid[[bad.row - rows.start for bad in invalid]] = 0
        plan = self.plan
        return {"valid": valid, "label": plan.label[part], "source": plan.video[part], "first_frame": plan.first[part]}

    def _rows(self, shard: int) -> range:
        return self.writer.header.columns["valid"].rows_of(shard)

    def _clips(self, shards: Sequence[int], together: bool) -> Iterator[Clip]:
        """The clips of all rows of `shards` in order, decoded ahead across the shards' borders."""
        asked: deque[_Span] = deque()

        def requests() -> Iterator[ReadRequest]:
            for shard in shards:
                for span in self._spans(shard, together):
                    asked.append(span)
                    yield span.request

        for result in self.pool.read(requests(), REQUESTS_AHEAD):
            span = asked.popleft()
            if result.frames is not None:
                yield from (result.frames[place] for place in span.places)
            elif len(span.rows) > 1:
                yield from (None for _ in span.rows)
            else:
                assert result.failure is not None  # a pool answers with frames or with the reason
                yield InvalidRow(span.rows[0], result.failure.reason, result.failure.detail)

    def _spans(self, shard: int, together: bool) -> Iterator[_Span]:
        framing = self.plan.config.framing
        clip_bytes = self.plan.config.frames * framing.height * framing.width * 3
        most = max(1, REQUEST_BYTES // clip_bytes) if together else 1
        rows = self._rows(shard)
        start = rows.start
        for row in range(rows.start + 1, rows.stop + 1):
            full = row - start == most
            if row == rows.stop or full or self.plan.video[row] != self.plan.video[start]:
                yield self._span(range(start, row))
                start = row

    def _span(self, rows: range) -> _Span:
        wanted = np.stack([self.plan.indices(row) for row in rows])
        frames, places = np.unique(wanted, return_inverse=True)
        request = ReadRequest(int(self.plan.video[rows.start]), frames, self.plan.config.framing)
        return _Span(rows, request, places.reshape(wanted.shape))
