"""The image encoder E (appendix A): key frames -> latents at an eighth of their size."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from tokenreel.decoders.generators.inbetweening.layers import SLOPE
from tokenreel.decoders.layers.batch_norm import BatchNorm


def image_encoder(channels: int, widths: tuple[int, int, int], latent: int) -> nn.Sequential:
    """[N, c, H, W] -> [N, C, H / 8, W / 8]. In training both key frames of all clips must be in one batch, as they are
    normalised together.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for width in widths:
        layers += _layer(nn.Conv2d(inputs, width, 4, 2, 1))
        layers += _layer(nn.Conv2d(width, width, 3, 1, 1))
        inputs = width
    return nn.Sequential(*layers, *_layer(nn.Conv2d(inputs, latent, 3, 1, 1)))


def _layer(convolution: nn.Conv2d) -> Iterator[nn.Module]:
    yield from (convolution, BatchNorm(convolution.out_channels), nn.LeakyReLU(SLOPE))
