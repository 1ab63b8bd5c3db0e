"""Averages: gradients over processes, weights over steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tokenreel.pipelines.training.distributed import (
    average_gradients,
    clip_gradients,
    require_equal_replicas,
    seed_from,
)
from tokenreel.pipelines.training.state import WeightAverage
from tokenreel.replicas import alone, process_count


def test_gradients_become_the_mean_over_processes() -> None:
    """A gradient that one process lacks counts as zero there; one that all lack stays absent."""
    ours, theirs = _parameters(), _parameters()
    ours[0].grad, theirs[0].grad = torch.full((3, 5), 2.0), torch.full((3, 5), 4.0)
    theirs[1].grad = torch.full((7,), 6.0)
    _average(ours, theirs)
    assert torch.equal(ours[0].grad, torch.full((3, 5), 3.0))  # type: ignore[arg-type]
    assert torch.equal(ours[1].grad, torch.full((7,), 3.0))  # type: ignore[arg-type]
    assert ours[2].grad is None


def _parameters() -> list[torch.Tensor]:
    return [torch.zeros(shape, requires_grad=True) for shape in ((3, 5), (7,), (2,))]


def _average(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    """Averages `ours` with a fake collective that has first recorded what `theirs` would send."""
    sent: list[torch.Tensor] = []

    def reduce(flat: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "mean"
        sent.append(flat.clone())
        return torch.stack(sent).mean(0)

    accelerator: Any = SimpleNamespace(num_processes=2, device=torch.device("cpu"), reduce=reduce)
    average_gradients(theirs, accelerator)
    average_gradients(ours, accelerator)


@pytest.mark.parametrize("theirs", [2.0, 3.0])
def test_different_weights_are_detected_in_each_process(theirs: float) -> None:
    sent: list[torch.Tensor] = []

    def reduce(pair: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "max"
        sent.append(pair)
        return torch.stack(sent).amax(0)

    accelerator: Any = SimpleNamespace(num_processes=2, device=torch.device("cpu"), reduce=reduce)
    require_equal_replicas({"codebook": torch.full((3, 5), 2.0)}, accelerator)
    if theirs == 2.0:
        require_equal_replicas({"codebook": torch.full((3, 5), theirs)}, accelerator)
    else:
        with pytest.raises(RuntimeError, match="different weights or buffers"):
            require_equal_replicas({"codebook": torch.full((3, 5), theirs)}, accelerator)


def test_clipping_scales_to_the_norm_and_returns_the_previous_norm() -> None:
    parameter = torch.zeros(2, requires_grad=True)
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([parameter], 1.0).item() == pytest.approx(5.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))
    clip_gradients([parameter], None)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))


def test_the_average_follows_its_formula_and_is_applied_only_inside_the_context() -> None:
    weight = torch.tensor([0.0, 10.0], requires_grad=True)
    average = WeightAverage({"weight": weight}, decay=0.5)
    expected = weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            weight += 1.0
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    with average.applied():
        torch.testing.assert_close(weight.detach(), expected)
    torch.testing.assert_close(weight.detach(), torch.tensor([20.0, 30.0]))
    torch.testing.assert_close(average.tensors["weight"], expected)


def test_averaged_weights_may_start_late() -> None:
    weight = torch.zeros(2, requires_grad=True)
    average = WeightAverage({"weight": weight}, decay=0.75, start=3)
    for step, expected in enumerate((1.0, 2.0, 3.0, 3.25, 3.6875)):
        with torch.no_grad():
            weight += 1.0
        average.update(step)
        torch.testing.assert_close(average.tensors["weight"], torch.full((2,), expected))


def test_a_process_can_compute_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with alone():
        assert process_count() == 1
    assert process_count() == 2


def test_seeds_depend_on_every_argument_and_are_frozen() -> None:
    """Other seeds would silently change resumed runs."""
    seeds = {seed_from(*arguments) for arguments in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}
    assert len(seeds) == 4
    assert seed_from(7, 11, 13) == 1648130095301877233
