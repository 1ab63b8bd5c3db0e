"""Clips by row of a plan, read ahead through a decode pool: pixels for training, and the inputs of controls."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future

import numpy as np

from tokenreel.data.controls.inputs import (
    ClassSource,
    ControlInput,
    ControlRequest,
    ControlSource,
    SoundSource,
    TableSource,
)
from tokenreel.data.decoding.pool import DecodePool, ReadResult
from tokenreel.data.plan import Plan
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError

MAX_FAILURES = 0.05  # fraction of the plan's rows, and one row in any case, that may fail before it is an error

logger = logging.getLogger(__name__)


class ClipReader:
    """Reads the rows of `plan` through `pool`; decoded clips take at most `memory_gb`, but always one clip."""

    def __init__(self, plan: Plan, pool: DecodePool, memory_gb: float) -> None:
        self.plan = plan
        self.failures: dict[int, DecodeFailure] = {}  # row -> why it does not decode
        self._pool = pool
        framing, frames = plan.config.framing, plan.config.frames
        clip_bytes = frames * framing.height * framing.width * 3
        self._capacity = max(1, int(memory_gb * 2**30) // clip_bytes)  # clips, decoded or in flight
        self._clips: OrderedDict[int, np.ndarray] = OrderedDict()  # least recently read first
        self._in_flight: dict[int, Future[ReadResult]] = {}

    def prefetch(self, rows: np.ndarray) -> None:
        """Starts to decode the clips of these rows, as far as memory allows; does nothing without worker processes."""
        if self._pool.workers:
            for row in rows.tolist():
                if len(self._in_flight) < self._capacity:
                    self._submit(row)
            self._make_room()

    def read(self, rows: np.ndarray) -> np.ndarray:
        """int64 [n] rows of the plan -> uint8 [n, T, H, W, 3].

        Raises DataError if too many rows do not decode, or the source itself fails.
        """
        self.prefetch(rows)
        return np.stack([self._clip_or_substitute(row) for row in rows.tolist()])

    def _clip_or_substitute(self, row: int) -> np.ndarray:
        while (clip := self._clip(row)) is None:
            row = self._next_of_split(row)
        return clip

    def _clip(self, row: int) -> np.ndarray | None:
        """The clip of a row; None where it does not decode."""
        if row in self._clips:
            self._clips.move_to_end(row)
            return self._clips[row]
        if row in self.failures:
            return None
        self._submit(row)
        result = self._in_flight.pop(row).result()
        if result.frames is None:
            assert result.failure is not None
            self._note_failure(row, result.failure)
            return None
        self._clips[row] = result.frames
        self._make_room()
        return result.frames

    def _make_room(self) -> None:
        while self._clips and len(self._clips) + len(self._in_flight) > self._capacity:
            self._clips.popitem(last=False)

    def _submit(self, row: int) -> None:
        if row not in self._clips and row not in self._in_flight and row not in self.failures:
            self._in_flight[row] = self._pool.submit(self.plan.request(row))

    def _next_of_split(self, row: int) -> int:
        rows = self.plan.rows(str(self.plan.videos[self.plan.video[row]].split))
        return int(rows[(np.searchsorted(rows, row) + 1) % len(rows)])

    def _note_failure(self, row: int, failure: DecodeFailure) -> None:
        self.failures[row] = failure
        name = self.plan.videos[self.plan.video[row]].id
        logger.warning("%s: a clip does not decode (%s); the next clip of its split replaces it", name, failure)
        rows = self.plan.rows(str(self.plan.videos[self.plan.video[row]].split))
        if len(self.failures) > max(1, MAX_FAILURES * len(self.plan)) or set(rows.tolist()) <= self.failures.keys():
            raise DataError(
                f"{name}: {failure}. That makes {len(self.failures)} of {len(self.plan)} clips that do not decode; "
                "remove the damaged videos from the data"
            )


ControlClip = dict[str, ControlInput]  # by control stream


def read_control_inputs(
    plan: Plan, pool: DecodePool, sources: Mapping[str, ControlSource], spans: Iterable[range], ahead: int
) -> Iterator[list[ControlClip] | DecodeFailure]:
    """For each span (rows of one video) the control inputs of each row, or why these rows have none.

    At most `ahead` spans are in flight. Raises DataError if the data lacks an input.
    """
    from_pool = {name: source for name, source in sources.items() if not isinstance(source, ClassSource)}
    requested: deque[tuple[range, np.ndarray]] = deque()

    def requests() -> Iterator[ControlRequest]:
        for span in spans:
            row_ticks = np.stack([plan.ticks(row) for row in span])
            ticks, inverse = np.unique(row_ticks, return_inverse=True)
            requested.append((span, inverse.reshape(row_ticks.shape)))
            for source in from_pool.values():
                yield _control_request(plan, int(plan.video[span.start]), source, ticks)

    if not from_pool:
        yield from ([_with_classes(plan, sources, row, {}) for row in span] for span in spans)
        return
    results = pool.read_controls(requests(), ahead * len(from_pool))
    for first in results:
        answers = [first, *(next(results) for _ in range(len(from_pool) - 1))]
        span, inverse = requested.popleft()
        failure = next((answer.failure for answer in answers if answer.failure is not None), None)
        if failure is not None:
            yield failure
            continue
        arrays = [answer.values for answer in answers if answer.values is not None]
        clips = ({name: array[ticks] for name, array in zip(from_pool, arrays, strict=True)} for ticks in inverse)
        yield [_with_classes(plan, sources, row, clip) for row, clip in zip(span, clips, strict=True)]


def _with_classes(
    plan: Plan, sources: Mapping[str, ControlSource], row: int, read: Mapping[str, np.ndarray]
) -> ControlClip:
    """The inputs that were read and the class, which the plan has, in the order of `sources`."""
    return {
        name: plan.class_name(row) if isinstance(source, ClassSource) else read[name]
        for name, source in sources.items()
    }


def _control_request(plan: Plan, video: int, source: TableSource | SoundSource, ticks: np.ndarray) -> ControlRequest:
    """The request to a decode pool for a control of `video` at these ticks."""
    frames = plan.videos[video].source_frames
    assert frames is not None  # an excluded video has no rows
    return ControlRequest(video, source, ticks, frames[ticks], plan.config.framing.frame_rate)
