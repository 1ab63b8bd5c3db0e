"""What data-parallel processes compute together, so that codebooks stay equal and losses are those of the whole batch.

Without an initialised process group every sum is the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_ALONE = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within this context the process computes as if there were no others, which may be doing something else."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def process_count() -> int:
    """Number of data-parallel processes."""
    if _ALONE.get():
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(*tensors: Tensor) -> list[Tensor]:
    """The float tensors summed over all processes, in one collective operation, whose size must be the same in all."""
    if process_count() == 1:
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of the processes' tensors. Its value is the same in all; its gradient is that of the own tensor, so that
    gradients averaged over the processes are those of the mean.
    """
    if process_count() == 1:
        return tensor
    (total,) = sum_over_processes(tensor.detach())
    return tensor + (total / process_count() - tensor).detach()


def sample_rows(rows: Tensor, count: int) -> Tensor:
    """This process's part of `count` random rows of all processes' rows [N, d]; zeros for the other processes' rows.

    Summed over the processes it is the same [count, d] in all, and what one process samples of all rows. Too few rows
    are repeated. N, and the state of torch's global generator, must be the same in all processes.
    """
    shuffled = torch.randperm(len(rows) * process_count(), device=rows.device)
    sampled = shuffled[torch.arange(count, device=rows.device) % len(shuffled)]
    if process_count() == 1:
        return rows[sampled]
    own = sampled - dist.get_rank() * len(rows)
    elsewhere = (own < 0) | (own >= len(rows))
    return rows[own.masked_fill(elsewhere, 0)].masked_fill(elsewhere[:, None], 0.0)
