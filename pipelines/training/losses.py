"""Losses by step: kept on the device until they are read, checked for NaN and for divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tokenreel.errors import UserError


class NonFiniteLoss(UserError):
    """A loss or gradient norm became NaN or infinite; earlier checkpoints are kept."""


@dataclass(frozen=True)
class Losses:
    """Losses of consecutive steps, means over processes. Steps may have different losses."""

    first_step: int  # number of the first one, counted from 1
    steps: list[dict[str, float]]
    steps_per_second: float

    def means(self) -> dict[str, float]:
        """The mean of each loss over the steps that have it."""
        names = dict.fromkeys(name for losses in self.steps for name in losses)
        return {name: float(np.mean([losses[name] for losses in self.steps if name in losses])) for name in names}


class LossRecord:
    """Collects the losses of steps without waiting for the device."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._pending: list[dict[str, Tensor]] = []
        self._seconds = 0.0

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, losses: dict[str, Tensor], seconds: float) -> None:
        """`losses`: scalars of one step by name, the same names in every process; `seconds`: duration of the step."""
        self._pending.append(losses)
        self._seconds += seconds

    def take(self, step: int) -> Losses:
        """Returns and clears what was recorded; `step` is the number of the last step.

        Raises NonFiniteLoss, naming the first step with a loss that is not finite.
        """
        started = time.perf_counter()
        flat = torch.stack([loss for losses in self._pending for loss in losses.values()])
        values = iter(self.accelerator.reduce(flat, reduction="mean").cpu().double().tolist())
        steps = [{name: next(values) for name in losses} for losses in self._pending]
        seconds = self._seconds + time.perf_counter() - started
        self._pending, self._seconds = [], 0.0
        first_step = step - len(steps) + 1
        for number, losses in enumerate(steps, first_step):
            for name, loss in losses.items():
                if not math.isfinite(loss):
                    raise NonFiniteLoss(
                        f"{name} is {loss} at step {number}. Lower training.learning_rate (for "
                        "discriminators, theirs) or training.clip_norm in a new folder"
                    )
        return Losses(first_step, steps, len(steps) / seconds)


RUNNING_MEAN_DECAY = np.float32(0.9)  # per step


class Diverged(UserError):
    """The losses are finite, but the reconstruction loss keeps rising."""


class ReconstructionGuard(nn.Module):
    """Checks the running mean of a loss: after `start` steps it must not exceed `factor` times its minimum. The mean
    begins with the first loss that is checked.
    """

    running: Tensor
    best: Tensor
    best_step: Tensor

    def __init__(self, factor: float, start: int) -> None:
        super().__init__()
        self.factor = factor
        self.start = start
        self.register_buffer("running", torch.tensor(0.0))
        self.register_buffer("best", torch.tensor(torch.inf))
        self.register_buffer("best_step", torch.tensor(0))

    def check(self, first_step: int, losses: Sequence[float]) -> None:
        """`losses` of consecutive steps from `first_step` (counted from 1). Raises Diverged."""
        running, best, best_step = np.float32(self.running.item()), self.best.item(), int(self.best_step.item())
        for step, loss in enumerate(losses, first_step):
            # fp32 like the buffers, so that the state does not depend on how many steps are checked at once
            decayed = RUNNING_MEAN_DECAY * running + (1 - RUNNING_MEAN_DECAY) * np.float32(loss)
            running = decayed if math.isfinite(best) else np.float32(loss)
            if running < best:
                best, best_step = float(running), step
            if step > self.start and running > self.factor * best:
                raise Diverged(
                    f"training.guard: the reconstruction loss is {running:.3g} at step {step}, more than "
                    f"{self.factor:g} times its best, {best:.3g} at step {best_step} (running means). Start again in a "
                    "new folder with a lower training.adversarial.weight or lower learning rates"
                )
        self.running.fill_(float(running))
        self.best.fill_(best)
        self.best_step.fill_(best_step)
