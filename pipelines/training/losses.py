"""The losses of the steps: recorded on the device until somebody asks, checked for NaN, and watched for divergence."""

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


DECAY = np.float32(0.9)  # a step, of the running mean


class Diverged(UserError):
    """A run that trains, but away from where it was to go; the trainer goes back to the newest checkpoint."""


class ReconstructionGuard(nn.Module):
    """Watches the running mean of a loss: after `start` steps it may not exceed `factor` times its best."""

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

    def watch(self, first: int, losses: Sequence[float]) -> None:
        """`losses` of the steps from number `first` on, 1 being the run's first. Raises Diverged."""
        running, best, best_step = np.float32(self.running.item()), self.best.item(), int(self.best_step.item())
        for step, loss in enumerate(losses, first):
            # In fp32, as the buffers are: the state does not depend on how many steps come at once.
            running = np.float32(loss) if step == 1 else DECAY * running + (1 - DECAY) * np.float32(loss)
            if running < best:
                best, best_step = float(running), step
            if step > self.start and running > self.factor * best:
                raise Diverged(
                    f"training.guard: the reconstruction loss is {running:.3g} at step {step}, more than "
                    f"{self.factor:g} times its best, {best:.3g} at step {best_step} (running means). Begin in a new "
                    "folder with a lower training.adversarial.weight or lower learning rates"
                )
        self.running.fill_(float(running))
        self.best.fill_(best)
        self.best_step.fill_(best_step)
