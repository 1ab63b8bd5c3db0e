"""The frame encoder of LVT (Rakhimov et al. 2020, section 4.1): pixels of single frames -> latents."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from tokenreel.decoders.layers.residual import ResidualBlock, stage_widths


class FrameEncoder(nn.Module):
    """[N, 3, H, W] -> [N, D, h, w]: 4x4 convs of stride 2, a 3x3 conv, residual blocks; then a 1x1 conv to D channels
    if D differs from `hidden` (in the paper both are 256).
    """

    def __init__(self, latent: int, hidden: int, residual: int, blocks: int, downsamplings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [3, *stage_widths(hidden, downsamplings)]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(hidden, hidden, 3, padding=1)]
        layers += [ResidualBlock(hidden, residual) for _ in range(blocks)]
        if latent != hidden:
            layers += [nn.Conv2d(hidden, latent, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, frames: Tensor) -> Tensor:
        latents: Tensor = self.layers(frames)
        return latents
