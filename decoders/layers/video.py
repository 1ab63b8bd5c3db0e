"""3D layers shared by video encoders and video decoders (Walker et al. 2021, table 3)."""

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
    """A convolution that divides each size exactly by its stride; kernels are twice the stride, as in table 3."""
    kernel, padding = _kernel(stride)
    return nn.Conv3d(inputs, outputs, kernel, stride, padding)


def upsampling(inputs: int, outputs: int, stride: Stride) -> nn.ConvTranspose3d:
    """A transposed convolution that multiplies each size exactly by its stride."""
    kernel, padding = _kernel(stride)
    return nn.ConvTranspose3d(inputs, outputs, kernel, stride, padding)


def _kernel(stride: Stride) -> tuple[Stride, Stride]:
    """Kernel sizes and paddings; an odd stride gets one more than twice its size, so that the kernel is centred."""
    t, h, w = (2 * s + s % 2 for s in stride)
    return (t, h, w), ((t - stride[0]) // 2, (h - stride[1]) // 2, (w - stride[2]) // 2)
