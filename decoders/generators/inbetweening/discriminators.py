"""The discriminators of clips and of single frames (appendix A). They return logits, without the sigmoid.

Layer normalisation is over channels, time and positions of a sample, with a scale and an offset per channel: group
normalisation with one group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.inbetweening.layers import SLOPE
from tokenreel.errors import ConfigError

TIME_KERNEL = 4  # frames; without padding, so that a layer takes three frames away


class VideoDiscriminator(nn.Module):
    """Clips [B, c, T, H, W] -> logits [B], after MoCoGAN's; the first `time_kernels` layers see changes over time."""

    def __init__(self, channels: int, widths: Sequence[int], frames: int, framing: Framing, time_kernels: int) -> None:
        super().__init__()
        steps = frames - (TIME_KERNEL - 1) * time_kernels
        if steps < 1:
            raise ConfigError(
                f"discriminators.time_kernels (={time_kernels}) need clips of {frames - steps + 1} frames, these have "
                f"{frames}: set it to {(frames - 1) // (TIME_KERNEL - 1)} or lower"
            )
        kernels = [(TIME_KERNEL if number < time_kernels else 1, 4, 4) for number in range(len(widths))]
        layers: list[nn.Module] = []
        for (inputs, outputs), kernel in zip(pairwise((channels, *widths)), kernels, strict=True):
            layers += _layer(nn.Conv3d(inputs, outputs, kernel, (1, 2, 2), (0, 1, 1)))
        features = widths[-1] * steps * math.prod(coarsest_grid(framing, len(widths)))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 1))

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.layers(clips)
        return logits[:, 0]


class ImageDiscriminator(nn.Module):
    """Frames [N, c, H, W] -> logits [N]."""

    def __init__(self, channels: int, widths: Sequence[int], framing: Framing) -> None:
        super().__init__()
        features = widths[-1] * math.prod(coarsest_grid(framing, len(widths)))
        blocks = (ImageBlock(*sizes) for sizes in pairwise((channels, *widths)))
        self.layers = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(features, 1))

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.layers(frames)
        return logits[:, 0]


class ImageBlock(nn.Module):
    """[N, C, H, W] -> [N, C', H / 2, W / 2]: two layers, and a shortcut of their input.

    The appendix prints the picture as the input of all shortcuts, whose size fits in the first block only.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_layer(nn.Conv2d(inputs, inputs, 3, 1, 1)), *_layer(nn.Conv2d(inputs, outputs, 4, 2, 1))
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(functional.avg_pool2d(x, 2))
        return shortcut + self.layers(x)


def coarsest_grid(framing: Framing, halvings: int) -> tuple[int, int]:
    """Height and width after the halvings. Raises ConfigError where frames cannot be halved so often."""
    if framing.height % 2**halvings or framing.width % 2**halvings:
        raise ConfigError(
            f"discriminators.widths (of {halvings} layers) need frames whose sides are multiples of {2**halvings}, "
            f"these have {framing.height}x{framing.width}: give fewer widths, or change data.framing"
        )
    return framing.height >> halvings, framing.width >> halvings


def _layer(convolution: nn.Conv2d | nn.Conv3d) -> Iterator[nn.Module]:
    yield from (convolution, nn.GroupNorm(1, convolution.out_channels), nn.LeakyReLU(SLOPE))
