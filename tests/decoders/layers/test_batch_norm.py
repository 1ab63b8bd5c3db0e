"""Batch normalisation against torch's own and against a loop over time steps, with one and two processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tokenreel.decoders.layers.batch_norm import BatchNorm


def _input(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 + 2


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (5, 3, 7, 2), (5, 3, 7, 2, 11)])
def test_equals_torch(shape: tuple[int, ...]) -> None:
    ours = BatchNorm(3).double()
    reference = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](3).double()
    for module in (ours, reference):
        with torch.no_grad():
            module.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
            module.bias.copy_(torch.tensor([1.0, -2.0, 0.25]))
    for _ in range(3):
        torch.testing.assert_close(ours(_input(*shape)), reference(_input(*shape)))
    torch.testing.assert_close(ours.running_mean, reference.running_mean)
    torch.testing.assert_close(ours.running_var, reference.running_var)
    torch.testing.assert_close(ours.eval()(_input(*shape)), reference.eval()(_input(*shape)))


def test_each_step_has_its_own_statistics() -> None:
    x = _input(5, 3, 7, 2, 11)
    norm = BatchNorm(3, steps=7, affine=False).double()
    frames = [nn.BatchNorm2d(3, affine=False).double() for _ in range(7)]
    expected = torch.stack([frame(x[:, :, step]) for step, frame in enumerate(frames)], 2)
    torch.testing.assert_close(norm(x), expected)
    running = torch.stack([frame.eval()(x[:, :, step]) for step, frame in enumerate(frames)], 2)
    torch.testing.assert_close(norm.eval()(x), running)


def test_nothing_flows_between_steps() -> None:
    x = _input(5, 3, 7, 2, 11)
    changed = x.clone()
    changed[:, :, 4] *= -3
    norm = BatchNorm(3, steps=7).double()
    others = [0, 1, 2, 3, 5, 6]
    assert torch.equal(norm(x)[:, :, others], norm(changed)[:, :, others])
