"""What a system supplies to be trained. The loop knows nothing else of it: no codes, no pixels, no probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Objective(ABC):
    """Networks, their losses by name, and the order in which they are updated.

    Whatever a network carries from step to step has to lie in its `state_dict`, and buffers that it updates itself
    (a codebook's statistics) have to come out equal in every process: only then is a resumed run the same run.
    """

    networks: dict[str, nn.Module]
    rows: np.ndarray  # int64 [n], rows of the training split
    data_identity: str  # changes with anything that changes what a row holds
    updates: tuple[str, ...]  # in this order within a step, each with the optimizer of its name

    alarms: tuple[str, ...] = ()  # what the last validation found to be wrong, in words for the user

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names of the networks whose weights are averaged over the steps: those that are exported, here all."""
        return tuple(self.networks)

    def begin_step(self, step: int) -> None:  # noqa: B027
        """Told before each step its number, 0 for the run's first: whatever depends on it follows from this alone."""

    def watch(self, first: int, losses: Sequence[Mapping[str, float]]) -> None:  # noqa: B027
        """Told the losses of the steps from number `first` on (1 is the run's first), means over processes: now and
        then, and before each checkpoint. Raises Diverged where the run must not go on.
        """

    @abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """One for each update; groups carry `initial_lr`, which the schedule scales (see `build_optimizer`)."""

    @abstractmethod
    def batch(self, rows: np.ndarray, samples: np.ndarray) -> Any:
        """The clips of `rows` [n] on the device. `samples` [n] are their numbers in the run: draw from (seed, sample)
        whatever is random about a clip, and it does not depend on the number of processes.
        """

    @abstractmethod
    def losses(self, update: str, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by name, means over the batch; their sum is what `update` minimises. None at all: it is left out of
        this step. Further random numbers come from `generator` (on the device) or torch's global one; both are seeded
        for this very call.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Scores on held-out clips by name. Called in the main process only, with the networks in evaluation mode."""

    @abstractmethod
    def write_samples(self, folder: Path) -> None:
        """Something to look at, always of the same held-out clips. Called as `validate` is."""

    @abstractmethod
    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """The trained model as `from_pretrained` reads it, into `folder`; `about`: steps and scores for its card."""

    @abstractmethod
    def prefetch(self, rows: np.ndarray) -> None:
        """These rows [n] are what this process wants next: a hint, to be passed over where reading is quick."""
