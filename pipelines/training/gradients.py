"""Gradients averaged over processes by one flat all-reduce, after accumulation, instead of by a wrapper of the model.

A wrapper (DistributedDataParallel) hooks `forward` alone; here an objective may call any method, leave parameters
unused and have several optimizers. The price: no overlap with the backward pass, and one more copy of the gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor


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
