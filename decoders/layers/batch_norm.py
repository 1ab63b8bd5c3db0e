"""Batch normalisation with the statistics of the whole batch, whatever the number of processes.

torch's SyncBatchNorm does the same on GPUs only, and has no statistics per time step.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from tokenreel.replicas import process_count

EPS = 1e-5  # torch's default, and BigGAN's


class BatchNorm(nn.Module):
    """Normalises [B, C, ...] over the batch and all positions; with `steps`, [B, C, T, ...] for each time step alone,
    so that nothing flows from one to another.

    In training mode the statistics are those of the batch, over all processes (whose batches must be of one size), and
    enter the running ones; in evaluation mode they are the running ones.
    """

    running_mean: Tensor  # [C], or [C T]
    running_var: Tensor

    def __init__(self, channels: int, steps: int | None = None, affine: bool = True, momentum: float = 0.1) -> None:
        super().__init__()
        self.steps = steps
        self.momentum = momentum  # weight of a batch's statistics in the running ones
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels * (steps or 1)))
        self.register_buffer("running_var", torch.ones(channels * (steps or 1)))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1, 2) if self.steps else x
        if self.training and process_count() > 1:
            normalised = self._over_processes(flat)
        else:
            normalised = functional.batch_norm(
                flat, self.running_mean, self.running_var, None, None, self.training, self.momentum, EPS
            )
        normalised = normalised.view_as(x)
        if self.weight is None or self.bias is None:
            return normalised
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return torch.addcmul(self.bias.view(shape), normalised, self.weight.view(shape))

    def _over_processes(self, x: Tensor) -> Tensor:
        """x [B, C, ...]. The variance is of differences from the common mean, which rounds less than squares do."""
        dims, shape = [0, *range(2, x.ndim)], (1, -1) + (1,) * (x.ndim - 2)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = all_reduce(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)  # unbiased, as torch's are
        return centred * torch.rsqrt(variance + EPS).view(shape)
