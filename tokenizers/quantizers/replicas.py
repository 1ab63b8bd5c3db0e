"""Keeps the codebooks of data-parallel processes equal: whatever moves a codebook is first summed over the processes.

Knows nothing of quantizers. Without an initialised process group everything is the identity.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(*tensors: Tensor) -> list[Tensor]:
    """The float tensors summed over all processes, in one collective of a fixed size, so that no process can wait for
    one that had nothing to say.
    """
    if process_count() == 1:
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def draw_rows(rows: Tensor, count: int) -> Tensor:
    """This process's share of `count` random rows out of everybody's [N, d]; zeros in the places of the others.

    Summed over the processes it is the same [count, d] everywhere, each row from one process in turn. With fewer rows
    than places, rows repeat.
    """
    shuffled = torch.randperm(len(rows), device=rows.device)
    drawn = rows[shuffled[torch.arange(count, device=rows.device) % len(rows)]]
    if process_count() > 1:
        elsewhere = torch.arange(count, device=rows.device) % process_count() != dist.get_rank()
        drawn = drawn.masked_fill(elsewhere[:, None], 0.0)
    return drawn
