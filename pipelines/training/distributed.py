"""Data-parallel training: seeds, averaged gradients, and a check that all processes hold equal models.

Gradients are averaged by one flat all-reduce after accumulation, not by DistributedDataParallel, which hooks `forward`
only: here an objective may call any method, leave parameters unused and have several optimizers. The cost is no overlap
with the backward pass, and one more copy of the gradients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor


def seed_from(*numbers: int) -> int:
    """A 63-bit seed derived from `numbers`, such as (seed, step, update, micro-step, rank)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seed_everything(device: torch.device, *numbers: int) -> torch.Generator:
    """Seeds torch's global generators (which dropout uses) and returns a generator on `device` with the same seed."""
    seed = seed_from(*numbers)
    torch.manual_seed(seed)
    return torch.Generator(device).manual_seed(seed)


def average_gradients(parameters: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Replaces every gradient by its mean over processes.

    A gradient that is None counts as zero if another process has one, and stays None if none has, so that optimizers
    skip the same parameters as in a single process.
    """
    if accelerator.num_processes == 1:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=accelerator.device)
    flat = torch.cat([used, *(_gradient(p).reshape(-1).float() for p in parameters)])
    flat = accelerator.reduce(flat, reduction="mean")
    used_fractions = flat[: len(parameters)].tolist()
    gradients = flat[len(parameters) :].split([p.numel() for p in parameters])
    for parameter, used_fraction, gradient in zip(parameters, used_fractions, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if used_fraction else None


def clip_gradients(parameters: Sequence[Tensor], max_norm: float | None) -> Tensor:
    """Scales the gradients down to `max_norm` (None: no limit). Returns their norm before that, a scalar."""
    return torch.nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def require_equal_replicas(tensors: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Raises RuntimeError in every process unless the hashes of `tensors` agree in all of them."""
    if accelerator.num_processes == 1:
        return
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    number = int.from_bytes(digest.digest()[:6], "big")
    extremes = accelerator.reduce(torch.tensor([number, -number], device=accelerator.device), reduction="max")
    if extremes[0] != -extremes[1]:
        raise RuntimeError(
            "the processes hold different weights or buffers: a network updates itself from its local batch only; "
            "reduce its statistics over all processes"
        )
