"""The local correlation against brute force, position by position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenreel.decoders.context.correlation import TILE, interpolate_positions, local_correlation


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


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(7, 11), (8, 12), (1, 2)])
def test_values_between_strided_positions_are_linear_by_brute_force(stride: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 3, -(-height // stride), -(-width // stride), dtype=torch.float64)
    expected = torch.zeros(2, 3, height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for i in range(values.shape[2]):
                for j in range(values.shape[3]):  # positions beyond the last one are clamped to it
                    dy = abs(min(y, stride * (values.shape[2] - 1)) - stride * i) / stride
                    dx = abs(min(x, stride * (values.shape[3] - 1)) - stride * j) / stride
                    expected[:, :, y, x] += max(0, 1 - dy) * max(0, 1 - dx) * values[:, :, i, j]
    torch.testing.assert_close(interpolate_positions(values, stride, height, width), expected)
