"""The frame encoder of CCVS (Le Moing et al. 2021, section 3.2): residual blocks that downsample.

Besides the latents it returns the features of every resolution, which are context in the decoding of other frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from tokenreel.decoders.layers.equalized import DownsampleBlock, EqualizedConv2d, activate


class PyramidEncoder(nn.Module):
    """[N, 3, H, W] -> latents [N, D, h, w] and features by level, coarse to fine; `widths` likewise.

    As in CCVS's code an activation follows the first and the last convolution too.
    """

    def __init__(self, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        fine_first = list(reversed(widths))
        self.project_in = EqualizedConv2d(3, fine_first[0], 1)
        self.blocks = nn.ModuleList(DownsampleBlock(a, b) for a, b in pairwise(fine_first))
        self.project_out = EqualizedConv2d(widths[0], latent, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = activate(self.project_in(frames))  # without it the finest features would span three dimensions
        features = [x]
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return activate(self.project_out(x)), features[::-1]
