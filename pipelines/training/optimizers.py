"""Optimizers, learning rate schedules, and optimizer state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tokenreel.errors import CheckpointError
from tokenreel.pipelines.training.config import TrainingConfig


def build_optimizer(config: TrainingConfig, networks: Iterable[nn.Module]) -> Optimizer:
    """The configured optimizer for all trainable parameters of `networks`.

    Weight decay applies to parameters with two or more dimensions, not to biases and norms.
    """
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [{**group, "initial_lr": config.learning_rate} for group in groups if group["params"]]
    rate, (first, second) = config.learning_rate, config.betas
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, rate, alpha=second, momentum=first)
    member = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return member(groups, rate, betas=(first, second), fused=True)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within this context the network's weights need no gradients; those that it passes on are computed."""
    network.requires_grad_(False)
    yield
    network.requires_grad_(True)


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """Factor of the learning rate at `step`, counted from 0: linear warmup, then constant or half a cosine.

    A constant one may fall linearly at the end: warmup-stable-decay (Hu et al., arXiv 2404.06395, section 4).
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return min(1.0, (config.steps - step) / config.decay_steps) if config.decay_steps else 1.0
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def optimizer_tensors(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimizer's state as tensors named `<parameter>/<entry>`, without settings, which the run's config holds."""
    return {
        f"{names[parameter]}/{entry}": value
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def load_optimizer_tensors(optimizer: Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`. Raises CheckpointError for the state of an unknown parameter."""
    positions = {names[p]: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, _, entry = key.rpartition("/")
        if parameter not in positions:
            raise CheckpointError(f"the checkpoint has an optimizer state for {parameter!r}, which the model lacks")
        state.setdefault(positions[parameter], {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
