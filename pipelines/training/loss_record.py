"""Losses of the steps since the last look at them; meanwhile they stay on the device, so that no step waits."""

from __future__ import annotations

import time

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from tokenreel.errors import UserError


class NonFiniteLoss(UserError):
    """A loss or gradient became NaN or infinite; the checkpoints from before are kept."""


class LossRecord:
    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._pending: list[dict[str, Tensor]] = []
        self._seconds = 0.0

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, losses: dict[str, Tensor], seconds: float) -> None:
        """`losses`: scalars of one step by name, the same names each time; `seconds` that the step took."""
        self._pending.append(losses)
        self._seconds += seconds

    def take(self, step: int) -> tuple[dict[str, float], float]:
        """Means over the recorded steps, of which `step` is the last, and over processes; steps a second. Forgets all.

        Raises NonFiniteLoss, naming the first step that has a bad one: no checkpoint is written without this look.
        """
        waiting = time.perf_counter()
        names = list(self._pending[0])
        stacked = torch.stack([torch.stack([losses[name] for name in names]) for losses in self._pending])
        values = self.accelerator.reduce(stacked, reduction="mean").cpu().double().numpy()
        seconds = self._seconds + time.perf_counter() - waiting
        self._pending, self._seconds = [], 0.0
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise NonFiniteLoss(
                f"{names[column]} is {values[row, column]} at step {step - len(values) + 1 + row}. Lower "
                "training.learning_rate or training.clip in a new folder"
            )
        return dict(zip(names, values.mean(0).tolist(), strict=True)), len(values) / seconds
