"""Clips of a plan's videos, read ahead through a decode pool: pixels for training, and the inputs of controls."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import NamedTuple

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


class Clip(NamedTuple):
    """A clip of a row's video: the row's own, or one that begins elsewhere."""

    row: int
    first: int  # tick of the video's resampled timeline
    frames: int


class ClipReader:
    """Reads clips of the rows of `plan` through `pool`; decoded clips take at most `memory_gb`, but always one clip."""

    def __init__(self, plan: Plan, pool: DecodePool, memory_gb: float) -> None:
        self.plan = plan
        self.failures: dict[int, DecodeFailure] = {}  # row -> why a clip of it does not decode
        self._pool = pool
        framing, frames = plan.config.framing, plan.config.frames
        clip_bytes = frames * framing.height * framing.width * 3
        self._capacity = max(1, int(memory_gb * 2**30) // clip_bytes)  # clips, decoded or in flight
        self._clips: OrderedDict[Clip, np.ndarray] = OrderedDict()  # least recently read first
        self._in_flight: dict[Clip, Future[ReadResult]] = {}
        self._failed: set[Clip] = set()

    def prefetch(self, rows: np.ndarray, firsts: np.ndarray | None = None, frames: int | None = None) -> None:
        """Starts to decode the clips that `read` is to be called with, as far as memory allows; does nothing without
        worker processes.
        """
        if self._pool.workers:
            for clip in self._clips_of(rows, firsts, frames):
                if len(self._in_flight) < self._capacity:
                    self._submit(clip)
            self._make_room()

    def read(self, rows: np.ndarray, firsts: np.ndarray | None = None, frames: int | None = None) -> np.ndarray:
        """int64 [n] rows of the plan -> uint8 [n, T, H, W, 3]: their own clips, or with `firsts`, int64 [n], those of
        `frames` (default: T) that begin at these ticks of the rows' videos.

        Raises DataError if too many rows do not decode, or the source itself fails.
        """
        return self.read_with_rows(rows, firsts, frames)[0]

    def read_with_rows(
        self, rows: np.ndarray, firsts: np.ndarray | None = None, frames: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `read`; also the rows, int64 [n], that the clips are of: others than `rows` where some do not decode."""
        self.prefetch(rows, firsts, frames)
        found = [self._clip_or_substitute(clip) for clip in self._clips_of(rows, firsts, frames)]
        return np.stack([decoded for _, decoded in found]), np.array([row for row, _ in found])

    def _clips_of(self, rows: np.ndarray, firsts: np.ndarray | None, frames: int | None) -> list[Clip]:
        frames = self.plan.config.frames if frames is None else frames
        firsts = self.plan.first[rows] if firsts is None else firsts
        return [Clip(row, first, frames) for row, first in zip(rows.tolist(), firsts.tolist(), strict=True)]

    def _clip_or_substitute(self, clip: Clip) -> tuple[int, np.ndarray]:
        """A clip with its row. Where it does not decode, the next row's own replaces it."""
        while (decoded := self._clip(clip)) is None:
            row = self._next_of_split(clip.row)
            clip = Clip(row, int(self.plan.first[row]), clip.frames)
        return clip.row, decoded

    def _clip(self, clip: Clip) -> np.ndarray | None:
        """The frames of a clip; None where it does not decode."""
        if clip in self._clips:
            self._clips.move_to_end(clip)
            return self._clips[clip]
        if clip in self._failed:
            return None
        self._submit(clip)
        result = self._in_flight.pop(clip).result()
        if result.frames is None:
            assert result.failure is not None
            self._failed.add(clip)
            self._note_failure(clip.row, result.failure)
            return None
        self._clips[clip] = result.frames
        self._make_room()
        return result.frames

    def _make_room(self) -> None:
        while self._clips and len(self._clips) + len(self._in_flight) > self._capacity:
            self._clips.popitem(last=False)

    def _submit(self, clip: Clip) -> None:
        if clip not in self._clips and clip not in self._in_flight and clip not in self._failed:
            self._in_flight[clip] = self._pool.submit(self.plan.request(*clip))

    def _next_of_split(self, row: int) -> int:
        rows = self.plan.rows(str(self.plan.videos[self.plan.video[row]].split))
        return int(rows[(np.searchsorted(rows, row) + 1) % len(rows)])

    def _note_failure(self, row: int, failure: DecodeFailure) -> None:
        if row in self.failures:  # of another clip of its video
            return
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
