"""Activation checkpointing: only the inputs of blocks are kept for the backward pass, which computes the rest again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenreel.sample_random import SampleRandom

Output = TypeVar("Output", Tensor, tuple[Tensor, Tensor])


class Recomputable(nn.Module):
    """A module that runs blocks by `run_block`, and may be told to compute them again in the backward pass."""

    recompute = False

    def run_block(self, block: Callable[..., Output], *inputs: Tensor, random: SampleRandom | None = None) -> Output:
        """`block(*inputs)`, or `block(*inputs, random)` with numbers that are the same when it is computed again."""
        numbers = [] if random is None else [random.fork()]

        def run(*inputs: Tensor) -> Output:
            return block(*inputs, *(own.restarted() for own in numbers))

        if not (self.recompute and torch.is_grad_enabled()):
            return run(*inputs)
        output: Output = checkpoint(run, *inputs, use_reentrant=False)
        return output


def recompute_activations(model: nn.Module) -> bool:
    """Tells all of the model's modules to do so; false if it has none that can."""
    modules = [module for module in model.modules() if isinstance(module, Recomputable)]
    for module in modules:
        module.recompute = True
    return bool(modules)
