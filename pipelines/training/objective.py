"""The interface between the training loop and a system that is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from tokenreel.sample_random import SampleRandom

MIN_HELD_OUT_CLIPS = 10  # below it a score says little of other videos
HELD_OUT = ("held_out_clips", "held_out_videos")  # the scores that say what the others are of


def held_out_counts(videos: Collection[object]) -> dict[str, float]:
    """What scores are of; `videos` are the videos of the held-out clips, one for each clip."""
    return dict(zip(HELD_OUT, (len(videos), len(set(videos))), strict=True))


def held_out_alarms(videos: Collection[object]) -> tuple[str, ...]:
    """A warning where too few clips are held out."""
    if len(videos) >= MIN_HELD_OUT_CLIPS:
        return ()
    if not videos:
        return ("no clip is held out, so the model has no scores: give more videos, or raise data.validation",)
    counts = f"{len(videos)} held-out clip{'s' * (len(videos) > 1)} of {len(set(videos))}"
    return (
        f"the scores are of only {counts} video{'s' * (len(set(videos)) > 1)}, and say little of others: give more "
        "videos, or raise data.validation or training.validation_clips",
    )


def part_of(rows: np.ndarray, part: int, parts: int) -> np.ndarray:
    """Consecutive `rows`, about as many in each part."""
    return np.array_split(rows, parts)[part]


class Objective(ABC):
    """Networks, their losses by name, and the order in which they are updated.

    All state that a network carries from step to step must be in its `state_dict`, and buffers that it updates itself
    (codebook statistics) must be equal in every process, and move once per step (`StepSums` of `tokenreel.replicas`):
    otherwise a resumed run differs, or one with another `training.accumulate`.
    """

    networks: dict[str, nn.Module]
    rows: np.ndarray  # int64 [n], rows of the training split
    data_identity: str  # changes whenever the content of a row changes
    # Names, in their order within a step; each has an optimizer. A name may repeat: its losses are logged as means.
    updates: tuple[str, ...]

    alarms: tuple[str, ...] = ()  # warnings of the last validation, for the user
    best_score: str | None = None  # the score of `validate` by which the best model is kept; None: none is kept
    best_is_highest: bool = False
    origin: Mapping[str, str] = MappingProxyType({})  # of the weights that the run starts with, for the model's card

    average_start: int = 0  # steps until which averaged weights are the current ones; 0: see WeightAverage

    @property
    def update_batches(self) -> tuple[int, ...]:
        """For each of `updates` which batch of the step it is given, counted from 0; by default all share one. A batch
        has `training.batch` clips.
        """
        return (0,) * len(self.updates)

    @property
    def averaged_networks(self) -> tuple[str, ...]:
        """Names of the networks whose weights are averaged over steps: those that are exported, by default all."""
        return tuple(self.networks)

    def initialise(self, batches: Sequence[Any], randoms: Sequence[SampleRandom]) -> None:  # noqa: B027
        """Called before the first step, without gradients, with the batches of its micro-steps and what `losses` will
        be given with each: sets what is initialised from data, alike in all processes.
        """

    def begin_step(self, step: int) -> None:  # noqa: B027
        """Called before each step with its number, counted from 0; what depends on the step must be set from it."""

    def check_losses(self, first_step: int, losses: Sequence[Mapping[str, float]]) -> None:  # noqa: B027
        """Called with the losses of consecutive steps from `first_step` (counted from 1), means over processes:
        whenever losses are logged, and before each checkpoint. Raises Diverged if the run must stop.
        """

    def in_other_units(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Values that are logged beside the mean `losses`, and follow from them."""
        return {}

    @abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """An optimizer by update; its groups have `initial_lr`, which the schedule scales (see `build_optimizer`)."""

    @abstractmethod
    def batch(self, rows: np.ndarray, samples: np.ndarray) -> Any:
        """The clips of `rows` [n], on the device. `samples` [n] are their numbers within the run: anything random about
        a clip should be sampled from (seed, sample), so that it does not depend on the number of processes.
        """

    @abstractmethod
    def losses(self, update: str, batch: Any, random: SampleRandom) -> dict[str, Tensor]:
        """Scalars by name, means over the batch, whose sum `update` minimises; empty: skip the update in this step.

        Random numbers come from `random`, which has some for each clip of the batch, whatever process it is in.
        torch's global generator is seeded for each call, and alike in all processes and micro-steps: it is for what all
        of them must do alike, such as resetting codes of a codebook.
        """

    @abstractmethod
    def score(self, part: int, parts: int) -> Any:
        """What the scores are computed from, of one of `parts` parts of the held-out clips (`part_of`), which may be
        empty. Called in all processes, each with its part, with all networks in evaluation mode.
        """

    @abstractmethod
    def validate(self, parts: Sequence[Any]) -> dict[str, float]:
        """Scores by name from what `score` returned for all parts, with the number of clips and videos that they are of
        (`held_out_counts`). Called in the main process only, with all networks in evaluation mode.
        """

    @abstractmethod
    def write_samples(self, folder: Path) -> dict[str, np.ndarray]:
        """Writes samples, always from the same held-out clips, into `folder`. Called like `validate`. Returns pictures
        uint8 [H, W, 3] of them by name, for trackers.
        """

    @abstractmethod
    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Saves the trained model, which `from_pretrained` reads; `about`: steps and scores for its model card."""

    @abstractmethod
    def prefetch(self, rows: np.ndarray, samples: np.ndarray) -> None:
        """A hint that `batch` will be called with these next; may be ignored where reading is fast."""
