"""Keeps codebooks equal in data-parallel processes: whatever updates a codebook is first summed over the processes.

Without an initialised process group every sum is the identity.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """Number of data-parallel processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(*tensors: Tensor) -> list[Tensor]:
    """The float tensors summed over all processes, in one collective operation, whose size must be the same in all."""
    if process_count() == 1:
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def sample_rows(rows: Tensor, count: int) -> Tensor:
    """This process's part of `count` random rows of all processes' rows [N, d]; zeros for the other processes' rows.

    Summed over the processes it is the same [count, d] in all, with rows from each process in turn. Too few rows are
    repeated.
    """
    shuffled = torch.randperm(len(rows), device=rows.device)
    sampled = rows[shuffled[torch.arange(count, device=rows.device) % len(rows)]]
    if process_count() > 1:
        elsewhere = torch.arange(count, device=rows.device) % process_count() != dist.get_rank()
        sampled = sampled.masked_fill(elsewhere[:, None], 0.0)
    return sampled
