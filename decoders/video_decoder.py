"""A decoder of clips (Walker et al. 2021, table 3): vectors on a grid -> features or pixels on a finer grid."""

from __future__ import annotations

from torch import Tensor, nn

from tokenreel.decoders.layers.video import Stride, VideoResidualBlock, upsampling


class VideoDecoder(nn.Module):
    """[B, inputs, t, h, w] -> [B, outputs, T, H, W]: 3x3x3 conv, residual blocks, a transposed conv of `stride`."""

    def __init__(self, inputs: int, outputs: int, hidden: int, residual: int, blocks: int, stride: Stride) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv3d(inputs, hidden, 3, padding=1)]
        layers += [VideoResidualBlock(hidden, residual) for _ in range(blocks)]
        layers += [nn.ReLU(), upsampling(hidden, outputs, stride)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        output: Tensor = self.layers(latents)
        return output
