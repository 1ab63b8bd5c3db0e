"""Filling the shards of a cache: decode the plan's clips, read their controls, encode batches, put the shard. No torch.

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
from tokenreel.data.clips import ControlClip, read_raw_spans
from tokenreel.data.controls.needs import ControlStreamEncoder
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import Plan
from tokenreel.data.sources.base import ReadRequest
from tokenreel.data.video.reader import DecodeFailure
from tokenreel.errors import CacheError, DataError

Encoder = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # uint8 [n, T, H, W, 3] -> codes by stream [n, t, h, w, q]

REQUEST_BYTES = 16 << 20  # of frames in one request; clips of one video that lie in one shard are decoded together
REQUESTS_AHEAD = 4


@dataclass(frozen=True)
class FilledShard:
    """What filling one shard took."""

    shard: int
    rows: int
    invalid: int
    first_invalid: str  # the first of these rows in words; empty where there is none
    decode_wait: float  # seconds in which the encoder had to wait for frames
    encode: float  # seconds
    seconds: float  # with writing


@dataclass(frozen=True, eq=False)
class _Span:
    """Rows of one video that are decoded by one request."""

    rows: range
    request: ReadRequest
    places: np.ndarray  # int64 [rows, T], where each clip's frames lie among the request's


@dataclass(frozen=True, eq=False)
class ReadClip:
    """What one row is made of."""

    row: int
    frames: np.ndarray  # uint8 [T, H, W, 3]
    raw: ControlClip  # control inputs by control stream


Clip = ReadClip | InvalidRow | None  # None: one of several rows decoded together failed


class ShardFiller:
    """Fills shards of one cache in one process, while `pool` decodes ahead of `encode`; `batch` in clips.

    `controls` makes the tokens of the control streams, which `encode` does not know.
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
        bad = f"{self.plan.video_id(invalid[0].row)}: {invalid[0].reason} ({invalid[0].detail})" if invalid else ""
        return FilledShard(shard, len(rows), len(invalid), bad, decode_wait, encode, time.perf_counter() - started)

    def _encode(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        """Codes of one batch by stream, fill where a clip is invalid. Raises CacheError for codes that are none."""
        framing = self.plan.config.framing
        frames = np.zeros((self.batch, self.plan.config.frames, framing.height, framing.width, 3), dtype=np.uint8)
        valid = np.array([isinstance(clip, ReadClip) for clip in clips])
        for i, clip in enumerate(clips):
            if isinstance(clip, ReadClip):
                frames[i] = clip.frames
        encoded = {**self.encode(frames), **self._encode_controls(clips)}
        codes = {}
        for stream in self.writer.header.spec.streams:
            layout = self.writer.header.streams[stream.name]
            made = encoded[stream.name]
            if made.shape != (self.batch, *layout.row_shape) or made.min() < 0 or made.max() >= stream.codebook_size:
                raise CacheError(
                    f"codes {made.shape} from {made.min()} to {made.max()} were made for the stream {stream.name!r}; "
                    f"its spec says {(self.batch, *layout.row_shape)} below {stream.codebook_size}"
                )
            codes[stream.name] = made[: len(clips)].astype(layout.dtype)
            codes[stream.name][~valid] = layout.fill
        return codes

    def _encode_controls(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        """Tokens [batch, t, h, w, q] by control stream, 0 where there is no clip. Each clip is encoded alone."""
        if self.controls is None:
            return {}
        header = self.writer.header
        shapes = {name: header.streams[name].row_shape for name in self.controls.needs}
        codes = {name: np.zeros((self.batch, *shape), dtype=np.int64) for name, shape in shapes.items()}
        for i, clip in enumerate(clips):
            if isinstance(clip, ReadClip):
                for name, made in self._control_tokens(self.controls, clip).items():
                    assert made.shape == shapes[name]  # else numpy would stretch it
                    codes[name][i] = made
        return codes

    def _control_tokens(self, controls: ControlStreamEncoder, clip: ReadClip) -> Mapping[str, np.ndarray]:
        try:
            return controls.encode(clip.raw)
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
        """The clips of all rows of `shards` in order, decoded ahead across the shards' borders."""
        asked: deque[_Span] = deque()

        def requests() -> Iterator[ReadRequest]:
            for shard in shards:
                for span in self._spans(shard, together):
                    asked.append(span)
                    yield span.request

        results = self.pool.read(requests(), REQUESTS_AHEAD)
        for result, raws in zip(results, self._raws(shards, together), strict=True):
            span = asked.popleft()
            failure = result.failure or (raws if isinstance(raws, DecodeFailure) else None)
            if result.frames is not None and not isinstance(raws, DecodeFailure):
                frames = (result.frames[place] for place in span.places)
                yield from (ReadClip(*clip) for clip in zip(span.rows, frames, raws, strict=True))
            elif len(span.rows) > 1:
                yield from (None for _ in span.rows)
            else:
                assert failure is not None  # a pool answers with frames or with the reason
                yield InvalidRow(span.rows[0], failure.reason, failure.detail)

    def _raws(self, shards: Sequence[int], together: bool) -> Iterator[list[ControlClip] | DecodeFailure]:
        """The controls of the rows of each span, or why they have none."""
        rows = (span.rows for shard in shards for span in self._spans(shard, together))
        if self.controls is None:
            return ([{} for _ in span] for span in rows)
        return read_raw_spans(self.plan, self.pool, self.controls.needs, rows, REQUESTS_AHEAD)

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
