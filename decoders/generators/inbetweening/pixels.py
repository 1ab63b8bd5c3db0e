"""The video generator G_V (appendix A): latents of a clip -> its pixels, at eight times their height and width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from tokenreel.decoders.generators.inbetweening.layers import SLOPE
from tokenreel.decoders.layers.batch_norm import BatchNorm
from tokenreel.decoders.layers.video import upsampling


def video_layers(latent: int, widths: Sequence[int], channels: int, time_doublings: int = 0) -> nn.Sequential:
    """[B, C, t, h, w] -> [B, c, t 2^n, 8 h, 8 w] in [-1, 1]; `widths` of image_encoder, n = `time_doublings` at most 3.

    The last layer has no norm, and tanh for its activation; the appendix does not except it from the others'.
    """
    layers = list(_layer(nn.Conv3d(latent, widths[-1], 3, padding=1)))
    outputs = (*reversed(widths[:-1]), channels)
    for number, (width, output) in enumerate(zip(reversed(widths), outputs, strict=True)):
        layers += _layer(nn.Conv3d(width, width, 3, padding=1))
        double = upsampling(width, output, (2 if number < time_doublings else 1, 2, 2))
        layers += _layer(double) if number < len(outputs) - 1 else (double, nn.Tanh())
    return nn.Sequential(*layers)


def _layer(convolution: nn.Conv3d | nn.ConvTranspose3d) -> Iterator[nn.Module]:
    yield from (convolution, BatchNorm(convolution.out_channels), nn.LeakyReLU(SLOPE))
