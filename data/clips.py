"""Clips by row for training on pixels: decoded ahead, held in memory as far as allowed, in any order.

A clip that does not decode is stood in for by the next row of its split that does, so batches keep their size and a
resumed run sees the same clips; which rows that befell is in `failures`. A few are borne, many stop the run. Where
codes are written instead, the cache's writer decides, not this module; it knows no models.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from concurrent.futures import Future

import numpy as np

from tokenreel.data.decoding.pool import DecodePool, ReadResult
from tokenreel.data.plan import Plan
from tokenreel.data.video.reader import DecodeFailure
from tokenreel.errors import DataError

MAX_FAILURES = 0.05  # share of the plan's rows, and one row in any case, that may fail before it is an error

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
        logger.warning("%s: a clip does not decode (%s); another one stands in for it", name, failure)
        rows = self.plan.rows(str(self.plan.videos[self.plan.video[row]].split))
        if len(self.failures) > max(1, MAX_FAILURES * len(self.plan)) or set(rows.tolist()) <= self.failures.keys():
            raise DataError(
                f"{name}: {failure}. That makes {len(self.failures)} of {len(self.plan)} clips that do not decode; "
                "take the damaged videos out of the data"
            )
