"""What several processes of one run share: equal random numbers, averaged gradients, a check for equal models.

Gradients are averaged by one flat all-reduce, after accumulation, instead of by a wrapper of the model. A wrapper
(DistributedDataParallel) hooks `forward` alone; here an objective may call any method, leave parameters unused and have
several optimizers. The price: no overlap with the backward pass, and one more copy of the gradients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor


def seed_from(*numbers: int) -> int:
    """A 63-bit seed for a place in the run, such as (seed, step, update, micro step, rank)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seed_everything(device: torch.device, *numbers: int) -> torch.Generator:
    """Seeds torch's global generators (dropout draws from those) and returns a generator on `device` with that seed."""
    seed = seed_from(*numbers)
    torch.manual_seed(seed)
    return torch.Generator(device).manual_seed(seed)


def average_gradients(parameters: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Sets every gradient to its mean over the processes. A gradient that is None counts as zero where another process
    has one, and stays None where none has, so that an optimizer skips what it would skip in one process.
    """
    if accelerator.num_processes == 1:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=accelerator.device)
    flat = torch.cat([used, *(_gradient(p).reshape(-1).float() for p in parameters)])
    flat = accelerator.reduce(flat, reduction="mean")
    anywhere = flat[: len(parameters)].tolist()
    pieces = flat[len(parameters) :].split([p.numel() for p in parameters])
    for parameter, share, piece in zip(parameters, anywhere, pieces, strict=True):
        parameter.grad = piece.view_as(parameter).to(parameter.dtype) if share else None


def clip_gradients(parameters: Sequence[Tensor], largest: float | None) -> Tensor:
    """Scales the gradients down to the norm `largest`; returns the norm that they had."""
    return torch.nn.utils.clip_grad_norm_(parameters, float("inf") if largest is None else largest)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def require_equal_replicas(tensors: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Raises RuntimeError in every process unless all hold the same bytes, so that their hashes agree."""
    if accelerator.num_processes == 1:
        return
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    number = int.from_bytes(digest.digest()[:6], "big")
    largest = accelerator.reduce(torch.tensor([number, -number], device=accelerator.device), reduction="max")
    if largest[0] != -largest[1]:
        raise RuntimeError(
            "the processes hold different weights or buffers: some network updates itself from its own batch alone; "
            "reduce what it counts across processes"
        )
