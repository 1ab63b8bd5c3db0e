"""Convolutions with an equalized learning rate (Karras et al. 2018, section 4.1, https://arxiv.org/abs/1710.10196).

Weights are stored with unit variance and scaled when used, so that one Adam learning rate (0.002 in CCVS) suits every
layer: with He initialisation the same rate would change a layer of 1,152 inputs by 7 % per step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.1  # of the leaky ReLUs, in CCVS's autoencoder as in its flow module
GAIN = math.sqrt(2)  # preserves the scale of activations, as in StyleGAN2; CCVS's code has no gain
BLUR = (1.0, 3.0, 3.0, 1.0)  # filter before downsampling and after upsampling


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU with a gain that preserves the scale of its input."""
    return functional.leaky_relu(x, SLOPE) * GAIN


class EqualizedConv2d(nn.Module):
    """[N, C, H, W] -> [N, C', H / stride, W / stride], zero-padded; `upsample` is its transpose with stride 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.stride, self.padding = stride, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)

    def upsample(self, x: Tensor) -> Tensor:
        """Transposed convolution with a 3x3 kernel: [N, C, H, W] -> [N, C', 2 H, 2 W]."""
        weight = (self.weight * self.scale).transpose(0, 1)
        return functional.conv_transpose2d(x, weight, self.bias, stride=2, padding=1, output_padding=1)


class Blur(nn.Module):
    """[N, C, H, W] -> [N, C, H / stride, W / stride], filtered by a fixed 4 x 4 kernel; `stride` is 1 or 2."""

    kernel: Tensor

    def __init__(self, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor(BLUR)
        self.stride = stride
        self.register_buffer("kernel", gain * taps.outer(taps)[None, None] / taps.sum() ** 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        padding = (1, 1, 1, 1) if self.stride == 2 else (2, 1, 2, 1)
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        return functional.conv2d(functional.pad(x, padding), kernel, stride=self.stride, groups=channels)


class DownsampleBlock(nn.Module):
    """Residual block of StyleGAN2's discriminator (Karras et al. 2020): [N, C, H, W] -> [N, C', H / 2, W / 2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualizedConv2d(inputs, inputs, 3)
        self.blur = Blur()
        self.second = EqualizedConv2d(inputs, outputs, 3, stride=2)
        self.downsample = Blur(stride=2)
        self.skip = EqualizedConv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = activate(self.first(x))
        inner = activate(self.second(self.blur(inner)))
        return (inner + self.skip(self.downsample(x))) / math.sqrt(2)


class UpsampleBlock(nn.Module):
    """Mirror image of DownsampleBlock: [N, C, H, W] -> [N, C', 2 H, 2 W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualizedConv2d(inputs, inputs, 3)
        self.second = EqualizedConv2d(inputs, outputs, 3)
        self.blur = Blur(gain=4.0)  # three of four inputs of the transposed convolution are zeros
        self.skip = EqualizedConv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = activate(self.first(x))
        inner = activate(self.blur(self.second.upsample(inner)))
        # zeros between pixels blurred by (1, 3, 3, 1) are bilinear upsampling
        skip = functional.interpolate(self.skip(x), scale_factor=2, mode="bilinear", align_corners=False)
        return (inner + skip) / math.sqrt(2)
