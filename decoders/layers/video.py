"""The 3D layers that video encoders and decoders share (Walker et al. 2021, table 3). They know no codes."""

from __future__ import annotations

from torch import Tensor, nn

Stride = tuple[int, int, int]  # in time, height and width


class VideoResidualBlock(nn.Module):
    """x + (ReLU, 3x3x3 conv, ReLU, 1x1x1 conv)(x) over [B, C, T, H, W]."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv3d(width, inner, 3, padding=1), nn.ReLU(), nn.Conv3d(inner, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def downsampling(inputs: int, outputs: int, stride: Stride) -> nn.Conv3d:
    """A conv to an exact `stride`-th of the size; its filter is twice the stride, as in table 3."""
    kernel, padding = _kernel(stride)
    return nn.Conv3d(inputs, outputs, kernel, stride, padding)


def upsampling(inputs: int, outputs: int, stride: Stride) -> nn.ConvTranspose3d:
    """The transposed conv back to exactly `stride` times the size."""
    kernel, padding = _kernel(stride)
    return nn.ConvTranspose3d(inputs, outputs, kernel, stride, padding)


def _kernel(stride: Stride) -> tuple[Stride, Stride]:
    """Filter sizes and paddings; one more than twice an odd stride, which could not be centred else."""
    t, h, w = (2 * s + s % 2 for s in stride)
    return (t, h, w), ((t - stride[0]) // 2, (h - stride[1]) // 2, (w - stride[2]) // 2)
