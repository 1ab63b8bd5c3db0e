"""Clips by row of a plan, read ahead through a decode pool: pixels for training, and inputs of controls."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future

import numpy as np

from tokenreel.data.controls.needs import (
    ClassSource,
    ControlInput,
    ControlRequest,
    ControlSource,
    SoundSource,
    TableSource,
)
from tokenreel.data.decoding.pool import DecodePool, ReadResult
from tokenreel.data.plan import Plan
from tokenreel.data.video.reader import DecodeFailure
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
        self._capacity = max(1, int(memory_gb * 2**30) // clip_bytes)  # clips, decoded or on their way
        self._clips: OrderedDict[int, np.ndarray] = OrderedDict()  # the one read longest ago comes first
        self._coming: dict[int, Future[ReadResult]] = {}

    def prefetch(self, rows: np.ndarray) -> None:
        """Has the clips of these rows decoded meanwhile, as far as memory goes; without worker processes, nothing."""
        if self._pool.workers:
            for row in rows.tolist():
                if len(self._coming) < self._capacity:
                    self._ask(row)
            self._make_room()

    def read(self, rows: np.ndarray) -> np.ndarray:
        """int64 [n] rows of the plan -> uint8 [n, T, H, W, 3].

        Raises DataError where too many rows do not decode, or the source itself fails.
        """
        self.prefetch(rows)
        return np.stack([self._clip_or_stand_in(row) for row in rows.tolist()])

    def _clip_or_stand_in(self, row: int) -> np.ndarray:
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
        self._ask(row)
        result = self._coming.pop(row).result()
        if result.frames is None:
            assert result.failure is not None
            self._note_failure(row, result.failure)
            return None
        self._clips[row] = result.frames
        self._make_room()
        return result.frames

    def _make_room(self) -> None:
        while self._clips and len(self._clips) + len(self._coming) > self._capacity:
            self._clips.popitem(last=False)

    def _ask(self, row: int) -> None:
        if row not in self._clips and row not in self._coming and row not in self.failures:
            self._coming[row] = self._pool.submit(self.plan.request(row))

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


def read_raw_spans(
    plan: Plan, pool: DecodePool, needs: Mapping[str, ControlSource], spans: Iterable[range], ahead: int
) -> Iterator[list[ControlClip] | DecodeFailure]:
    """For each span (rows of one video) the control inputs of each row, or why those rows have none.

    At most `ahead` spans are in flight. Raises DataError if the data lacks what is needed.
    """
    from_pool = {name: need for name, need in needs.items() if not isinstance(need, ClassSource)}
    asked: deque[tuple[range, np.ndarray]] = deque()

    def requests() -> Iterator[ControlRequest]:
        for span in spans:
            wanted = np.stack([plan.ticks(row) for row in span])
            ticks, places = np.unique(wanted, return_inverse=True)
            asked.append((span, places.reshape(wanted.shape)))
            for need in from_pool.values():
                yield _raw_request(plan, int(plan.video[span.start]), need, ticks)

    if not from_pool:
        yield from ([_with_classes(plan, needs, row, {}) for row in span] for span in spans)
        return
    results = pool.read_controls(requests(), ahead * len(from_pool))
    for first in results:
        answers = [first, *(next(results) for _ in range(len(from_pool) - 1))]
        span, places = asked.popleft()
        failure = next((answer.failure for answer in answers if answer.failure is not None), None)
        if failure is not None:
            yield failure
            continue
        raws = [answer.values for answer in answers if answer.values is not None]
        clips = ({name: raw[place] for name, raw in zip(from_pool, raws, strict=True)} for place in places)
        yield [_with_classes(plan, needs, row, clip) for row, clip in zip(span, clips, strict=True)]


def _with_classes(
    plan: Plan, needs: Mapping[str, ControlSource], row: int, read: Mapping[str, np.ndarray]
) -> ControlClip:
    """The inputs that were read, in the order of `needs`, and the class, which the plan knows."""
    return {name: plan.class_name(row) if isinstance(need, ClassSource) else read[name] for name, need in needs.items()}


def _raw_request(plan: Plan, video: int, need: TableSource | SoundSource, ticks: np.ndarray) -> ControlRequest:
    """The request to a decode pool for a control of `video` at these ticks."""
    frames = plan.videos[video].source_frames
    assert frames is not None  # an excluded video has no rows
    return ControlRequest(video, need, ticks, frames[ticks], plan.config.framing.frame_rate)
