"""Batch normalisation with the statistics of the whole batch, whatever the number of processes; of several micro-steps
(`training.accumulate`) each has its own.

torch's SyncBatchNorm does the same on GPUs only, and has no statistics per time step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from tokenreel.replicas import alone, process_count

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
        self.averaged: int | None = None  # batches so far, within `standing_statistics`
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels * (steps or 1)))
        self.register_buffer("running_var", torch.ones(channels * (steps or 1)))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1, 2) if self.steps else x
        training, momentum = self.training, self.momentum
        if self.averaged is not None:
            self.averaged += 1
            training, momentum = True, 1 / self.averaged
        if training and process_count() > 1:
            normalised = self._over_processes(flat)
        else:
            normalised = functional.batch_norm(
                flat, self.running_mean, self.running_var, None, None, training, momentum, EPS
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


@contextmanager
def standing_statistics(network: nn.Module) -> Iterator[None]:
    """Within it the network normalises each batch by its own statistics, and the running ones become the means of those
    of all batches: what BigGAN (Brock et al. 2019, https://arxiv.org/abs/1809.11096) samples with. In this process
    alone, whatever the number of processes.
    """
    norms = _batch_norms(network)
    for norm in norms:
        norm.averaged = 0
    try:
        with alone():
            yield
    finally:
        for norm in norms:
            norm.averaged = None


@contextmanager
def unchanged_statistics(network: nn.Module) -> Iterator[None]:
    """Within it running statistics stay as they are: for what activation checkpointing computes again."""
    norms = _batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _batch_norms(network: nn.Module) -> list[BatchNorm]:
    return [module for module in network.modules() if isinstance(module, BatchNorm)]
