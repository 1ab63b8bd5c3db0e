"""Convolutions with an equalized learning rate (Karras et al. 2018, section 4.1, https://arxiv.org/abs/1710.10196).

Weights are stored with unit variance and scaled when used, so that one Adam learning rate (0.002 in CCVS) suits every
layer: with He initialisation the same rate would change a layer of 1,152 inputs by 7 % per step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.1  # of the leaky ReLUs in CCVS's autoencoder and flow module
GAIN = math.sqrt(2)  # preserves the scale of activations, as in StyleGAN2; CCVS's code has no gain
BLUR = (1.0, 3.0, 3.0, 1.0)  # filter before downsampling and after upsampling


def activate(x: Tensor, slope: float = SLOPE) -> Tensor:
    """Leaky ReLU with a gain that preserves the scale of its input."""
    return functional.leaky_relu(x, slope) * GAIN


class EqualizedConv2d(nn.Module):
    """[N, C, H, W] -> [N, C', H, W], zero-padded; with a stride of 2 it is not padded, as the blur before it is."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.stride, self.padding = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)

    def upsample(self, x: Tensor) -> Tensor:
        """Transposed convolution with a 3x3 kernel: [N, C, H, W] -> [N, C', 2 H + 1, 2 W + 1], pixel i at 2 i + 1."""
        weight = (self.weight * self.scale).transpose(0, 1)
        return functional.conv_transpose2d(x, weight, self.bias, stride=2)


class Blur(nn.Module):
    """Filters [N, C, H, W] by a fixed 4 x 4 kernel, zeros beyond the border: [N, C, H', W'], where H' is
    (H + 2 padding - 4) / stride + 1. The kernel is even, so that without a stride outputs lie between pixels.
    """

    kernel: Tensor

    def __init__(self, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor(BLUR)
        self.padding, self.stride = padding, stride
        self.register_buffer("kernel", gain * taps.outer(taps)[None, None] / taps.sum() ** 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        return functional.conv2d(x, kernel, stride=self.stride, padding=self.padding, groups=channels)


class DownsampleBlock(nn.Module):
    """Residual block of StyleGAN2's discriminator (Karras et al. 2020): [N, C, H, W] -> [N, C', H / 2, W / 2] for even
    sizes. The centre of output pixel i is at 2 i + 1/2 on both paths, that of input pixels 2 i and 2 i + 1.
    """

    def __init__(self, inputs: int, outputs: int, slope: float = SLOPE) -> None:
        super().__init__()
        self.slope = slope
        self.first = EqualizedConv2d(inputs, inputs, 3)
        self.blur = Blur(padding=2)
        self.second = EqualizedConv2d(inputs, outputs, 3, stride=2)
        self.downsample = Blur(padding=1, stride=2)
        self.skip = EqualizedConv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = activate(self.first(x), self.slope)
        inner = activate(self.second(self.blur(inner)), self.slope)
        return (inner + self.skip(self.downsample(x))) / math.sqrt(2)


class UpsampleBlock(nn.Module):
    """Mirror image of DownsampleBlock: [N, C, H, W] -> [N, C', 2 H, 2 W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualizedConv2d(inputs, inputs, 3)
        self.second = EqualizedConv2d(inputs, outputs, 3)
        self.blur = Blur(padding=1, gain=4.0)  # three of four inputs of the transposed convolution are zeros
        self.skip = EqualizedConv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = activate(self.first(x))
        inner = activate(self.blur(self.second.upsample(inner)))
        return (inner + _upsample(self.skip(x))) / math.sqrt(2)


def _upsample(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2 H, 2 W]: zeros between pixels and beyond the border, filtered by BLUR with a gain of 4.

    That is bilinear interpolation, except that interpolation repeats border pixels, where this is 3/4 of it.
    """
    upsampled = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    rows, columns = (_border_weights(size, x) for size in upsampled.shape[2:])
    return upsampled * (rows[:, None] * columns)


def _border_weights(size: int, like: Tensor) -> Tensor:
    """[size]: 3/4 at both ends, else 1."""
    weights = like.new_ones(size)
    weights[0] = weights[-1] = BLUR[1] / (BLUR[0] + BLUR[1])
    return weights
