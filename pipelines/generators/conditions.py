"""Where the conditions of samples come from: classes in turn, the clips of a data set, or given frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.pixels import to_model
from tokenreel.data.plan import Plan
from tokenreel.data.sources.base import ReadRequest
from tokenreel.decoders.generators.conditions import Conditions, class_weights
from tokenreel.errors import ConfigError, DataError

READ_AHEAD = 4  # clips
MAX_KEPT = 1024  # clips whose frames are kept for further samples


class ConditionSource(Protocol):
    def of(self, samples: np.ndarray) -> Conditions:
        """The conditions of the samples of these numbers, int64 [B]."""


@dataclass(frozen=True)
class ClassesInTurn:
    """No frames; sample i has the class i modulo their number."""

    spec: GeneratorSpec
    indices: Sequence[int]  # of classes; empty for a generator without

    def labels(self, samples: np.ndarray) -> list[int]:
        """-1 for a generator without classes."""
        return [self.indices[i % len(self.indices)] if self.indices else -1 for i in samples.tolist()]

    def of(self, samples: np.ndarray) -> Conditions:
        return Conditions(classes=class_weights(self.labels(samples), self.spec) if self.indices else None)


@dataclass(frozen=True)
class GivenFrames:
    """The same frames for all samples; classes in turn."""

    classes: ClassesInTurn
    first: np.ndarray | None  # uint8 [n, H, W, 3]
    end: np.ndarray | None  # uint8 [1, H, W, 3]

    def of(self, samples: np.ndarray) -> Conditions:
        count = len(samples)
        return Conditions(
            given=None if self.first is None else to_model(self.first).expand(count, -1, -1, -1, -1),
            end=None if self.end is None else to_model(self.end)[:, 0].expand(count, -1, -1, -1),
            classes=self.classes.of(samples).classes,
        )


class ClipConditions:
    """The first frames, end frame and class of clips: sample i has those of clip i modulo their number."""

    def __init__(
        self, spec: GeneratorSpec, plan: Plan, pool: DecodePool, rows: np.ndarray, classes: ClassesInTurn
    ) -> None:
        """`rows` of the plan; `classes` in place of the clips' own, if it has some. Raises ConfigError for a clip of a
        class that the generator does not have, DataError for one of none.
        """
        self._spec, self._plan, self._pool, self._rows = spec, plan, pool, rows
        self._classes = classes
        own = bool(spec.classes) and not classes.indices
        self._own_labels = {row: self._label(row) for row in rows.tolist()} if own else {}
        ticks = [*range(spec.given_frames), *([spec.frames - 1] if spec.end_frame else [])]
        self._ticks = np.array(ticks, dtype=np.int64)
        self._kept: dict[int, np.ndarray] = {}  # by row, uint8 [n, H, W, 3]

    def rows(self, samples: np.ndarray) -> np.ndarray:
        return self._rows[samples % len(self._rows)]

    def labels(self, samples: np.ndarray) -> list[int]:
        """Indices into the generator's classes, or where it has none into the plan's."""
        if not self._spec.classes:
            return self._plan.label[self.rows(samples)].tolist()
        if self._own_labels:
            return [self._own_labels[row] for row in self.rows(samples).tolist()]
        return self._classes.labels(samples)

    def of(self, samples: np.ndarray) -> Conditions:
        """Raises DataError where a frame does not decode."""
        classes = class_weights(self.labels(samples), self._spec) if self._spec.classes else None
        if not len(self._ticks):
            return Conditions(classes=classes)
        frames = self._frames(self.rows(samples))
        given = self._spec.given_frames
        return Conditions(
            given=frames[:, :, :given] if given else None,
            end=frames[:, :, -1] if self._spec.end_frame else None,
            classes=classes,
        )

    def _frames(self, rows: np.ndarray) -> Tensor:
        """[B, 3, n, H, W]: the given frames, then the end frame."""
        found = {row: self._kept[row] for row in rows.tolist() if row in self._kept}
        missing = [row for row in dict.fromkeys(rows.tolist()) if row not in found]
        for row, result in zip(missing, self._pool.read(map(self._request, missing), READ_AHEAD), strict=True):
            if result.frames is None:
                raise DataError(f"--data: {self._plan.video_id(row)}: {result.failure}") from result.failure
            found[row] = result.frames
        if len(self._kept) < MAX_KEPT:
            self._kept |= found
        return to_model(np.stack([found[row] for row in rows.tolist()]))

    def _request(self, row: int) -> ReadRequest:
        clip = self._plan.request(row)
        return ReadRequest(clip.video, clip.indices[self._ticks], clip.framing)

    def _label(self, row: int) -> int:
        name = self._plan.class_name(row)
        if name not in self._spec.classes:
            raise ConfigError(
                f"--data: {self._plan.video_id(row)} is of the class {name!r}, and the generator has "
                f"{', '.join(self._spec.classes)}: give others by --class, or data with these classes"
            )
        return self._spec.class_index(name)


def chosen_classes(spec: GeneratorSpec, names: Sequence[str], flag: str = "--class") -> list[int]:
    """The indices of the named classes. Raises ConfigError where the generator has none of that name, or no classes."""
    if names and not spec.classes:
        raise ConfigError(f"{flag} {names[0]}: this generator has no classes, it makes {spec.summary}: omit it")
    try:
        return [spec.class_index(name) for name in names]
    except ConfigError as error:
        raise ConfigError(f"{flag}: {error}") from error
