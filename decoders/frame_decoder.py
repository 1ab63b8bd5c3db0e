"""The frame decoder of LVT (Rakhimov et al. 2020, section 4.1): latents of single frames -> pixels."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from tokenreel.decoders.layers.residual import ResidualBlock, stage_widths


class FrameDecoder(nn.Module):
    """[N, D, h, w] -> [N, 3, H, W] in (-1, 1): 3x3 conv, residual blocks, transposed 4x4 convs of stride 2, tanh."""

    def __init__(self, latent: int, hidden: int, residual: int, blocks: int, upsamplings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(latent, hidden, 3, padding=1)]
        layers += [ResidualBlock(hidden, residual) for _ in range(blocks)]
        widths = [3, *stage_widths(hidden, upsamplings)]
        for wide, narrow in pairwise(reversed(widths)):
            layers += [nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.layers(latents)
        return pixels
