"""Blocks that change the resolution, against filtering by brute force, and at their borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tokenreel.decoders.layers.equalized import DownsampleBlock, UpsampleBlock

FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def correlate(x: np.ndarray, kernel: np.ndarray, padding: int) -> np.ndarray:
    """x [C, H, W] with zeros around it, kernel [C', C, a, b] or one [a, b] for each channel -> [C', H', W']."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    if kernel.ndim == 2:
        kernel = np.stack([kernel * (np.arange(len(x)) == channel)[:, None, None] for channel in range(len(x))])
    rows, columns = (size - taps + 1 for size, taps in zip(x.shape[1:], kernel.shape[2:], strict=True))
    out = np.zeros((len(kernel), rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i : i + kernel.shape[2], j : j + kernel.shape[3]]
            out[:, i, j] = (kernel * patch).sum((1, 2, 3))
    return out


def zeros_between(x: np.ndarray) -> np.ndarray:
    """[C, H, W] -> [C, 2 H - 1, 2 W - 1]"""
    out = np.zeros((len(x), 2 * x.shape[1] - 1, 2 * x.shape[2] - 1))
    out[:, ::2, ::2] = x
    return out


def convolve(layer: nn.Module, x: np.ndarray, padding: int, flip: bool = False) -> np.ndarray:
    weight = (layer.weight * layer.scale).detach().numpy()
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()[:, None, None]
    return correlate(x, weight[:, :, ::-1, ::-1] if flip else weight, padding) + bias


def activate(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.1 * x) * math.sqrt(2)


def random_block(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    block = kind(3, 2).double()
    for layer in (block.first, block.second):
        nn.init.normal_(layer.bias)
    return block


def output(block: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return block(x[None])[0].numpy()


@pytest.mark.parametrize(("height", "width"), [(5, 7), (2, 3), (1, 1)])
def test_an_upsampling_block_is_right_in_every_row_and_column(height: int, width: int) -> None:
    """As StyleGAN2 and CCVS's code filter: zeros between pixels and beyond the border, on both paths."""
    block, x = random_block(UpsampleBlock), torch.randn(3, height, width, dtype=torch.float64)
    inner = activate(convolve(block.first, x.numpy(), 1))
    inner = convolve(block.second, zeros_between(inner), 2, flip=True)  # a transposed convolution
    inner = activate(correlate(inner, 4 * FILTER, 1))
    skip = correlate(zeros_between(convolve(block.skip, x.numpy(), 0)), 4 * FILTER, 2)
    np.testing.assert_allclose(output(block, x), (inner + skip) / math.sqrt(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(10, 14), (2, 6)])
def test_a_downsampling_block_is_right_in_every_row_and_column(height: int, width: int) -> None:
    block, x = random_block(DownsampleBlock), torch.randn(3, height, width, dtype=torch.float64)
    inner = correlate(activate(convolve(block.first, x.numpy(), 1)), FILTER, 2)
    inner = activate(convolve(block.second, inner, 0)[:, ::2, ::2])
    skip = convolve(block.skip, correlate(x.numpy(), FILTER, 1)[:, ::2, ::2], 0)
    np.testing.assert_allclose(output(block, x), (inner + skip) / math.sqrt(2), rtol=0, atol=1e-12)
