"""Losses of the steps since the last look at them; meanwhile they stay on the device, so that no step waits."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from tokenreel.errors import UserError


class NonFiniteLoss(UserError):
    """A loss or gradient became NaN or infinite; the checkpoints from before are kept."""


@dataclass(frozen=True)
class Losses:
    """Means over processes of consecutive steps; a loss that a step did not have is not among its own."""

    first: int  # number of the first step, 1 for the run's first
    steps: list[dict[str, float]]
    rate: float  # steps a second

    def means(self) -> dict[str, float]:
        """Of each loss over the steps that have it."""
        names = dict.fromkeys(name for losses in self.steps for name in losses)
        return {name: float(np.mean([losses[name] for losses in self.steps if name in losses])) for name in names}


class LossRecord:
    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._pending: list[dict[str, Tensor]] = []
        self._seconds = 0.0

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, losses: dict[str, Tensor], seconds: float) -> None:
        """`losses`: scalars of one step by name, the same names in every process; `seconds` that the step took."""
        self._pending.append(losses)
        self._seconds += seconds

    def take(self, step: int) -> Losses:
        """What was recorded; `step` is the number of the last one. Forgets all.

        Raises NonFiniteLoss, naming the first step that has a bad one: no checkpoint is written without this look.
        """
        waiting = time.perf_counter()
        flat = torch.stack([loss for losses in self._pending for loss in losses.values()])
        values = iter(self.accelerator.reduce(flat, reduction="mean").cpu().double().tolist())
        steps = [{name: next(values) for name in losses} for losses in self._pending]
        seconds = self._seconds + time.perf_counter() - waiting
        self._pending, self._seconds = [], 0.0
        first = step - len(steps) + 1
        for number, losses in enumerate(steps, first):
            for name, loss in losses.items():
                if not math.isfinite(loss):
                    raise NonFiniteLoss(
                        f"{name} is {loss} at step {number}. Lower training.learning_rate or training.clip in a new "
                        "folder"
                    )
        return Losses(first, steps, len(steps) / seconds)
