"""An encoder of clips: a strided 3D conv and residual blocks (Walker et al. 2021, table 3)."""

from __future__ import annotations

from torch import Tensor, nn

from tokenreel.decoders.layers.video import Stride, VideoResidualBlock, downsampling


class VideoEncoder(nn.Module):
    """[B, inputs, T, H, W] -> [B, hidden, t, h, w], each size divided by its stride.

    No ReLU follows the blocks: at high learning rates all of its channels die, and all tokens of the level are equal.
    """

    def __init__(self, inputs: int, hidden: int, residual: int, blocks: int, stride: Stride) -> None:
        super().__init__()
        stack = (VideoResidualBlock(hidden, residual) for _ in range(blocks))
        self.layers = nn.Sequential(downsampling(inputs, hidden, stride), *stack)

    def forward(self, video: Tensor) -> Tensor:
        features: Tensor = self.layers(video)
        return features
