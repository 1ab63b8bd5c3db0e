"""The discriminators of CCVS (Le Moing et al. 2021, section 3.2): of single frames, and of consecutive frames.

Residual blocks that downsample, blur before downsampling, and a minibatch standard deviation, as in StyleGAN2 (Karras
et al. 2020, https://arxiv.org/abs/1912.04958). Weights have an equalized learning rate, which the learning rate of CCVS
(Adam, 0.002, from StyleGAN2) assumes. A higher score means more like a true sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.decoders.layers.equalized import Blur, DownsampleBlock, EqualizedConv2d, activate
from tokenreel.errors import ConfigError

MIN_SIDE = 4  # pixels of the shorter side at which downsampling ends
SLOPE = 0.2  # of the leaky ReLUs, as in StyleGAN2
DEVIATION_GROUP = 4  # samples of the minibatch statistic, as in StyleGAN2; fewer where they do not divide the batch


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of a discriminator; the number of its levels follows from the size of the frames."""

    width: int = 64  # channels at full size
    multipliers: tuple[int, ...] = (
        1,
        1,
        2,
        2,
        4,
        4,
    )  # of the width by level, fine to coarse; the last one repeats

    def __post_init__(self) -> None:
        if not self.multipliers or min(self.width, *self.multipliers) < 1:
            raise ConfigError(f"width and multipliers of a discriminator must be at least 1, got {self}")

    def widths(self, height: int, width: int) -> list[int]:
        """Channels by level: at height x width pixels, at half of that, ... down to MIN_SIDE or an odd side."""
        levels, sides = 1, (height, width)
        while min(sides) > MIN_SIDE and not any(side % 2 for side in sides):
            levels, sides = levels + 1, (sides[0] // 2, sides[1] // 2)
        return [self.width * self.multipliers[min(level, len(self.multipliers) - 1)] for level in range(levels)]


class ImageDiscriminator(nn.Module):
    """Frames [N, 3, H, W] in [-1, 1] -> scores [N]."""

    def __init__(self, config: DiscriminatorConfig, height: int, width: int) -> None:
        super().__init__()
        widths = config.widths(height, width)
        downsamplings = len(widths) - 1
        self.project_in = EqualizedConv2d(3, widths[0], 1)
        self.blocks = nn.ModuleList(DownsampleBlock(a, b, SLOPE) for a, b in pairwise(widths))
        self.last = EqualizedConv2d(widths[-1] + 1, widths[-1], 3)
        self.hidden = EqualizedLinear(widths[-1] * (height >> downsamplings) * (width >> downsamplings), widths[-1])
        self.score = EqualizedLinear(widths[-1], 1)

    def forward(self, frames: Tensor) -> Tensor:
        frames = frames.contiguous(memory_format=torch.channels_last)  # 1.2 times as fast on CPU
        x = activate(self.project_in(frames), SLOPE)
        for block in self.blocks:
            x = block(x)
        x = activate(self.last(append_deviation(x)), SLOPE)
        x = activate(self.hidden(x.flatten(1)), SLOPE)
        scores: Tensor = self.score(x)
        return scores[:, 0]


class TemporalDiscriminator(nn.Module):
    """Clips [B, 3, n, H, W] in [-1, 1] -> scores [B]: the image discriminator extended to 3D, for any n.

    Each block removes two frames while there are more than two. The authors flatten the remaining frames, which fixes
    n; here they are averaged.
    """

    def __init__(self, config: DiscriminatorConfig, height: int, width: int) -> None:
        super().__init__()
        widths = config.widths(height, width)
        downsamplings = len(widths) - 1
        self.project_in = EqualizedConv3d(3, widths[0], (1, 1, 1))
        self.blocks = nn.ModuleList(TemporalBlock(a, b) for a, b in pairwise(widths))
        self.last = EqualizedConv3d(widths[-1] + 1, widths[-1], (3, 3, 3))
        self.hidden = EqualizedLinear(widths[-1] * (height >> downsamplings) * (width >> downsamplings), widths[-1])
        self.score = EqualizedLinear(widths[-1], 1)

    def forward(self, clips: Tensor) -> Tensor:
        x = activate(self.project_in(clips), SLOPE)
        for block in self.blocks:
            x = block(x)
        x = activate(self.last(append_deviation(x)), SLOPE).mean(2)
        x = activate(self.hidden(x.flatten(1)), SLOPE)
        scores: Tensor = self.score(x)
        return scores[:, 0]


class TemporalBlock(nn.Module):
    """[B, C, n, H, W] -> [B, C', n', H / 2, W / 2], n' = n - 2 where n > 2, else n: a DownsampleBlock in 3D.

    The skip path's kernel always has three frames; CCVS's code has one where time is not shortened.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualizedConv3d(inputs, inputs, (3, 3, 3))
        self.blur = Blur(padding=2)
        self.second = EqualizedConv3d(inputs, outputs, (3, 3, 3), stride=2)
        self.downsample = Blur(padding=1, stride=2)
        self.skip = EqualizedConv3d(inputs, outputs, (3, 1, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shorten = x.shape[2] > 2
        inner = activate(self.first(x), SLOPE)
        inner = activate(self.second(_blur_frames(self.blur, inner), shorten), SLOPE)
        return (inner + self.skip(_blur_frames(self.downsample, x), shorten)) / math.sqrt(2)


class EqualizedConv3d(nn.Module):
    """EqualizedConv2d in 3D, which pads height and width only without a stride; time has no stride, and is padded."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int, int], *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * math.prod(kernel))
        self.stride = (1, stride, stride)
        self.padding = [size // 2 if stride == 1 else 0 for size in kernel[1:]]

    def forward(self, x: Tensor, shorten: bool = False) -> Tensor:
        """[B, C, n, H, W] -> [B, C', n, H', W']. With `shorten` time is not padded: n' = n - 2 for 3 frames."""
        padding = (0 if shorten else self.weight.shape[2] // 2, *self.padding)
        return functional.conv3d(x, self.weight * self.scale, self.bias, self.stride, padding)


class EqualizedLinear(nn.Module):
    """Linear layer with an equalized learning rate: [N, C] -> [N, C']."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.scale, self.bias)


def append_deviation(x: Tensor) -> Tensor:
    """[N, C, ...] -> [N, C + 1, ...]: appends the minibatch standard deviation, that within a group of samples averaged
    over channels and positions (Karras et al. 2018, section 3). The size of groups is the largest divisor of N up to
    DEVIATION_GROUP.
    """
    size = next(size for size in range(min(DEVIATION_GROUP, len(x)), 0, -1) if len(x) % size == 0)
    grouped = x.unflatten(0, (size, -1))  # sample i is in group i mod (N / size)
    deviation = (grouped.var(0, correction=0) + 1e-8).sqrt().flatten(1).mean(1)  # one number for each group
    channel = deviation.repeat(size).view(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], 1)


def _blur_frames(blur: Blur, x: Tensor) -> Tensor:
    """[B, C, n, H, W] -> [B, C, n, H', W']"""
    blurred: Tensor = blur(x.flatten(1, 2))  # channels are blurred independently
    return blurred.unflatten(1, x.shape[1:3])
