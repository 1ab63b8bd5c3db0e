"""The 3D layers have exact output sizes, the kernels of table 3, and skip connections."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tokenreel.decoders.layers.video import Stride, VideoResidualBlock, downsampling, upsampling
from tokenreel.decoders.video_decoder import VideoDecoder


@pytest.mark.parametrize("stride", [(2, 4, 4), (2, 2, 2), (1, 3, 5), (3, 1, 2)])
def test_sizes_are_exact_for_any_stride(stride: Stride) -> None:
    t, h, w = stride
    small = torch.rand(2, 5, 2, 3, 7)
    large = upsampling(5, 11, stride)(small)
    assert large.shape == (2, 11, 2 * t, 3 * h, 7 * w)
    assert downsampling(11, 5, stride)(large).shape == small.shape


def test_kernels_are_those_of_table_3() -> None:
    for stride, kernel in (((2, 4, 4), (4, 8, 8)), ((2, 2, 2), (4, 4, 4))):
        assert downsampling(3, 5, stride).kernel_size == upsampling(5, 3, stride).kernel_size == kernel


@pytest.mark.parametrize("stride", [(2, 4, 4), (3, 1, 5)])
def test_a_receptive_field_is_symmetric(stride: Stride) -> None:
    """The receptive field of the middle one of three outputs is symmetric around its own pixels."""
    video = torch.zeros(1, 1, *(3 * s for s in stride), requires_grad=True)
    layer = downsampling(1, 1, stride)
    nn.init.ones_(layer.weight)
    layer(video)[0, 0, 1, 1, 1].backward()
    assert video.grad is not None
    gradient = video.grad[0, 0]
    assert torch.equal(gradient, gradient.flip(0, 1, 2))
    assert gradient[tuple(slice(s, 2 * s) for s in stride)].all()


def test_a_block_without_weights_is_the_identity() -> None:
    block, x = VideoResidualBlock(7, 3), torch.randn(2, 7, 3, 5, 2)
    assert not torch.equal(block(x), x)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(x), x)


def test_the_decoder_reaches_the_size_of_the_clip() -> None:
    decoder = VideoDecoder(inputs=6, outputs=3, hidden=7, residual=5, blocks=2, stride=(2, 4, 3))
    assert decoder(torch.rand(2, 6, 2, 3, 5)).shape == (2, 3, 4, 12, 15)
