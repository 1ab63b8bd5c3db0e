"""Stops a run whose reconstructions collapse, as they may once a tokenizer is trained against discriminators.

It knows the losses of the steps and no networks. Its state lies in buffers, so that it is in the checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.errors import UserError

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
