from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tokenreel.errors import CheckpointError, ConfigError
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.optimizers import (
    build_optimizer,
    learning_rate_factor,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)


def test_the_learning_rate_rises_over_the_warmup_and_falls_as_a_cosine() -> None:
    config = TrainingConfig(steps=12, warmup=4, schedule="cosine")
    factors = [learning_rate_factor(config, step) for step in (0, 1, 3, 4, 8, 12)]
    assert factors == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.5, 0.0])
    assert learning_rate_factor(replace(config, schedule="constant"), 11) == 1.0


def test_a_constant_rate_may_fall_linearly_in_the_last_steps() -> None:
    config = TrainingConfig(steps=12, warmup=2, decay_steps=4)
    factors = [learning_rate_factor(config, step) for step in (0, 1, 2, 7, 8, 9, 10, 11)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25])
    with pytest.raises(ConfigError, match=r"decay_steps \(=4\) requires schedule: constant"):
        replace(config, schedule="cosine")


def test_weight_decay_excludes_biases() -> None:
    network = nn.Linear(5, 3)
    optimizer = build_optimizer(TrainingConfig(weight_decay=0.5, learning_rate=0.1), [network])
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(network.weight, before["weight"] * 0.95)
    torch.testing.assert_close(network.bias, before["bias"], rtol=0, atol=0)


@pytest.mark.parametrize("member", ["adam", "adamw", "rmsprop"])
def test_an_optimizer_resumes_exactly_from_its_tensors(member: str) -> None:
    config = TrainingConfig(optimizer=member, weight_decay=0.1, learning_rate=0.01)  # type: ignore[arg-type]
    torch.manual_seed(3)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    first = build_optimizer(config, [ours])
    _steps(ours, first, range(3))
    theirs.load_state_dict(ours.state_dict())
    second = build_optimizer(config, [theirs])
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(first, _names(ours)).items()}
    load_optimizer_tensors(second, _names(theirs), tensors)
    _steps(ours, first, range(3, 7))
    _steps(theirs, second, range(3, 7))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_the_state_of_an_unknown_parameter_is_refused() -> None:
    network = nn.Linear(5, 3)
    with pytest.raises(CheckpointError, match=r"'model\.gone', which the model lacks"):
        load_optimizer_tensors(
            build_optimizer(TrainingConfig(), [network]), _names(network), {"model.gone/exp_avg": torch.zeros(2)}
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("decay_steps", 1001), ("betas", (0.9, 1.0)), ("clip_norm", 0.0), ("ema_decay", 1.0)],
)
def test_settings_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{field} \(="):
        replace(TrainingConfig(), **{field: value})  # type: ignore[arg-type]


def _names(network: nn.Module) -> dict[torch.Tensor, str]:
    return {parameter: f"model.{name}" for name, parameter in network.named_parameters()}


def _steps(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        set_learning_rate(optimizer, 1 / (1 + step))
        optimizer.zero_grad()
        network(torch.sin(torch.arange(35.0).view(7, 5) + step)).square().mean().backward()
        optimizer.step()
