"""The discriminators of CCVS (Le Moing et al. 2021, section 3.2): of pictures, and of runs of consecutive frames.

Residual blocks that halve, blur before, and a statistic over the minibatch, as in StyleGAN2 (Karras et al. 2020,
https://arxiv.org/abs/1912.04958). Weights have an equalized learning rate, because the rate of CCVS (Adam, 0.002) is
that of StyleGAN2 and supposes it. A higher score means more like the truth. They know no tokenizer and no loss.
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

SMALLEST = 4  # pixels of the shorter side at which halving ends
DEVIATION_GROUP = 4  # samples of the minibatch statistic, as in StyleGAN2; fewer where they do not divide the batch


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Of either discriminator; how often it halves follows from the size of the pictures."""

    width: int = 64  # channels at full size
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)  # of the width by level, fine to coarse; the last one goes on

    def __post_init__(self) -> None:
        if not self.multipliers or min(self.width, *self.multipliers) < 1:
            raise ConfigError(f"width and multipliers of a discriminator must be at least 1, got {self}")

    def widths(self, height: int, width: int) -> list[int]:
        """Channels by level: at height x width pixels, at half of it, ... for as long as it halves."""
        levels, sides = 1, (height, width)
        while min(sides) > SMALLEST and not any(side % 2 for side in sides):
            levels, sides = levels + 1, (sides[0] // 2, sides[1] // 2)
        return [self.width * self.multipliers[min(level, len(self.multipliers) - 1)] for level in range(levels)]


class ImageDiscriminator(nn.Module):
    """[N, 3, H, W] in [-1, 1] -> scores [N]."""

    def __init__(self, config: DiscriminatorConfig, height: int, width: int) -> None:
        super().__init__()
        widths = config.widths(height, width)
        downsamplings = len(widths) - 1
        self.project_in = EqualizedConv2d(3, widths[0], 1)
        self.blocks = nn.ModuleList(DownsampleBlock(a, b) for a, b in pairwise(widths))
        self.last = EqualizedConv2d(widths[-1] + 1, widths[-1], 3)
        self.hidden = EqualizedLinear(widths[-1] * (height >> downsamplings) * (width >> downsamplings), widths[-1])
        self.score = EqualizedLinear(widths[-1], 1)

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.contiguous(memory_format=torch.channels_last)  # 1.2 times as fast on CPU
        x = activate(self.project_in(pictures))
        for block in self.blocks:
            x = block(x)
        x = activate(self.last(with_deviation(x, DEVIATION_GROUP)))
        x = activate(self.hidden(x.flatten(1)))
        scores: Tensor = self.score(x)
        return scores[:, 0]


class TemporalDiscriminator(nn.Module):
    """[B, 3, n, H, W] in [-1, 1] -> scores [B]: the image discriminator extended to 3D, for runs of any length.

    A block takes two frames off the run for as long as it has more than two. The authors flatten what is left over
    time, which fixes n; here its mean is taken.
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

    def forward(self, run: Tensor) -> Tensor:
        # Never bf16 on a CPU: there the weights' gradient of a conv3d over two frames is uninitialised memory (torch
        # 2.13, oneDNN; even plausible numbers at times). In fp32 this takes no longer.
        bf16 = run.device.type != "cpu" and torch.is_autocast_enabled(run.device.type)
        with torch.autocast(run.device.type, enabled=bf16):
            return self._scores(run.float())

    def _scores(self, run: Tensor) -> Tensor:
        x = activate(self.project_in(run))
        for block in self.blocks:
            x = block(x)
        x = activate(self.last(with_deviation(x, DEVIATION_GROUP))).mean(2)
        x = activate(self.hidden(x.flatten(1)))
        scores: Tensor = self.score(x)
        return scores[:, 0]


class TemporalBlock(nn.Module):
    """[B, C, n, H, W] -> [B, C', n', H / 2, W / 2], n' = n - 2 where n > 2, else n: a DownsampleBlock in 3D."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualizedConv3d(inputs, inputs, (3, 3, 3))
        self.blur = Blur()
        self.second = EqualizedConv3d(inputs, outputs, (3, 3, 3), stride=2)
        self.halve = Blur(stride=2)
        self.skip = EqualizedConv3d(inputs, outputs, (3, 1, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shorten = x.shape[2] > 2
        inner = activate(self.first(x))
        inner = activate(self.second(_by_frame(self.blur, inner), shorten))
        return (inner + self.skip(_by_frame(self.halve, x), shorten)) / math.sqrt(2)


class EqualizedConv3d(nn.Module):
    """[B, C, n, H, W] -> [B, C', n, H', W']: EqualizedConv2d with time; its stride is one of height and width alone."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int, int], *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * math.prod(kernel))
        self.stride = (1, stride, stride)

    def forward(self, x: Tensor, shorten: bool = False) -> Tensor:
        """With `shorten` no frames are padded, so that a kernel of three frames leaves n - 2."""
        time, height, width = (size // 2 for size in self.weight.shape[2:])
        padding = (0 if shorten else time, height, width)
        return functional.conv3d(x, self.weight * self.scale, self.bias, self.stride, padding)


class EqualizedLinear(nn.Module):
    """[N, C] -> [N, C']"""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.scale, self.bias)


def with_deviation(x: Tensor, largest: int) -> Tensor:
    """[N, C, ...] -> [N, C + 1, ...]: one more channel, the standard deviation within a group of samples, averaged over
    channels and places (Karras et al. 2018, section 3). Groups are as large as divides N, at most `largest`.
    """
    size = next(size for size in range(min(largest, len(x)), 0, -1) if len(x) % size == 0)
    grouped = x.unflatten(0, (size, -1))  # sample i is in group i mod (N / size)
    deviation = (grouped.var(0, correction=0) + 1e-8).sqrt().flatten(1).mean(1)  # one number for each group
    channel = deviation.repeat(size).view(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], 1)


def _by_frame(blur: Blur, x: Tensor) -> Tensor:
    """[B, C, n, H, W] -> [B, C, n, H', W']"""
    blurred: Tensor = blur(x.flatten(1, 2))  # every channel is blurred on its own
    return blurred.unflatten(1, x.shape[1:3])
