"""Residual block shared by frame encoders and frame decoders (LVT section 4.1)."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + (ReLU, 3x3 conv, ReLU, 1x1 conv)(x) over [N, C, H, W].

    The skip connection carries x itself; an in-place ReLU in the authors' code makes it carry relu(x).
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def stage_widths(hidden: int, stages: int) -> list[int]:
    """Channels after each downsampling: they double from stage to stage and end at `hidden`."""
    return [hidden >> (stages - 1 - stage) for stage in range(stages)]
