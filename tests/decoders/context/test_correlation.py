"""The local correlation against brute force, position by position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenreel.decoders.context.correlation import TILE, local_correlation


def brute_force(first: Tensor, second: Tensor, radius: int, stride: int) -> Tensor:
    number, channels, height, width = first.shape
    steps = range(-radius, radius + 1)
    out = torch.zeros(number, len(steps) ** 2, -(-height // stride), -(-width // stride))
    for i, y in enumerate(range(0, height, stride)):
        for j, x in enumerate(range(0, width, stride)):
            for channel, (dy, dx) in enumerate((dy, dx) for dy in steps for dx in steps):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    pair = first[:, :, y, x] * second[:, :, y + dy, x + dx]
                    out[:, channel, i, j] = pair.sum(1) / channels
    return out


@pytest.mark.parametrize(("radius", "stride"), [(3, 1), (3, 2), (1, 1), (2, 3)])
@pytest.mark.parametrize("width", [5, 2 * TILE + 5])
def test_equals_brute_force(radius: int, stride: int, width: int) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 7, width), torch.randn(2, 3, 7, width)
    expected = brute_force(first, second, radius, stride)
    torch.testing.assert_close(local_correlation(first, second, radius, stride), expected, rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_the_function() -> None:
    torch.manual_seed(0)
    pair = [torch.randn(1, 2, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: local_correlation(a, b, 2, 2), pair)
