"""No network shifts pictures: with mirror-symmetric weights each commutes with mirroring, left-right and up-down.

A block whose paths lie a fraction of a pixel beside each other fails. For networks over flows the weights are symmetric
under the mirroring that negates the flow's component and reverses the displacements of the correlation.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tokenreel.decoders.context.decoder import ContextDecoder, fuse
from tokenreel.decoders.context.flow import Flow, FlowConfig
from tokenreel.decoders.context.warp import warp
from tokenreel.decoders.frame_decoder import FrameDecoder
from tokenreel.decoders.layers.equalized import DownsampleBlock, UpsampleBlock
from tokenreel.decoders.layers.residual import ResidualBlock
from tokenreel.decoders.losses.discriminators import (
    DiscriminatorConfig,
    ImageDiscriminator,
    TemporalBlock,
    TemporalDiscriminator,
)
from tokenreel.decoders.video_decoder import VideoDecoder
from tokenreel.tokenizers.encoders.frame_encoder import FrameEncoder
from tokenreel.tokenizers.encoders.pyramid_encoder import PyramidEncoder
from tokenreel.tokenizers.encoders.video_encoder import VideoEncoder

AXES = [-1, -2]  # left-right, up-down
DISCRIMINATOR = DiscriminatorConfig(3, (1, 2))
FLOW = FlowConfig(widths=(7, 5))

BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "downsampling": (lambda: DownsampleBlock(3, 5), (2, 3, 14, 22)),
    "upsampling": (lambda: UpsampleBlock(3, 5), (2, 3, 7, 11)),
    "temporal, shortened": (lambda: TemporalBlock(3, 5), (2, 3, 5, 14, 22)),
    "temporal": (lambda: TemporalBlock(3, 5), (2, 3, 2, 14, 22)),
    "residual": (lambda: ResidualBlock(3, 5), (2, 3, 7, 11)),
    "frame encoder": (lambda: FrameEncoder(7, 12, 5, 1, 3), (2, 3, 24, 40)),
    "frame decoder": (lambda: FrameDecoder(7, 12, 5, 1, 3), (2, 7, 3, 5)),
    "video encoder": (lambda: VideoEncoder(3, 7, 5, 1, (2, 4, 3)), (2, 3, 4, 28, 33)),
    "video decoder": (lambda: VideoDecoder(7, 3, 5, 5, 1, (2, 4, 3)), (2, 7, 2, 7, 11)),
    "context encoder": (lambda: _Latents([7, 5, 3, 3], 2), (2, 3, 24, 40)),
    "context decoder, alone": (lambda: _Pixels([7, 5, 3, 3], None), (2, 2, 3, 5)),
}


class _Latents(nn.Module):
    """The latents of a PyramidEncoder."""

    def __init__(self, widths: list[int], latent: int) -> None:
        super().__init__()
        self.encoder = PyramidEncoder(widths, latent)

    def forward(self, frames: Tensor) -> Tensor:
        return self.encoder(frames)[0]


class _Pixels(nn.Module):
    """The pixels of a ContextDecoder."""

    def __init__(self, widths: list[int], flow: FlowConfig | None) -> None:
        super().__init__()
        self.decoder = ContextDecoder(2, widths, flow)

    def forward(self, latents: Tensor, contexts: list[Tensor] | None = None) -> Tensor:
        return self.decoder(latents, contexts).pixels


@torch.no_grad()
def make_symmetric(module: nn.Module, axis: int) -> None:
    for weight in module.parameters():
        if weight.ndim > 3:
            weight.copy_((weight + weight.flip(axis)) / 2)
        else:
            nn.init.normal_(weight)  # biases, which are zero at first; vectors of fully connected layers below


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_a_block_commutes_with_mirroring(name: str, axis: int) -> None:
    torch.manual_seed(0)
    build, shape = BLOCKS[name]
    block, x = build().double(), torch.randn(shape, dtype=torch.float64)
    make_symmetric(block, axis)
    torch.testing.assert_close(block(x.flip(axis)), block(x).flip(axis), rtol=0, atol=1e-9)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(
    ("kind", "shape"), [(ImageDiscriminator, (3, 3, 24, 40)), (TemporalDiscriminator, (3, 3, 4, 24, 40))]
)
@torch.no_grad()
def test_a_discriminator_scores_a_mirrored_picture_alike(kind, shape, axis: int) -> None:
    torch.manual_seed(0)
    discriminator, x = kind(DISCRIMINATOR, *shape[-2:]), torch.randn(shape)
    make_symmetric(discriminator, axis)
    grid = discriminator.hidden.weight.view(len(discriminator.hidden.weight), -1, 3, 5)
    grid.copy_((grid + grid.flip(axis)) / 2)
    scores = discriminator(x)
    assert scores.std() > 1e-3
    torch.testing.assert_close(discriminator(x.flip(axis)), scores, rtol=1e-4, atol=1e-4)


def mirrored_flow(flow: Tensor, axis: int) -> Tensor:
    """Flows [..., 2, h, w], (x, y), of mirrored pictures."""
    sign = torch.ones(2, 1, 1)
    sign[0 if axis == -1 else 1] = -1
    return sign * flow.flip(axis)


@pytest.mark.parametrize("axis", AXES)
def test_warping_and_fusing_commute_with_mirroring(axis: int) -> None:
    torch.manual_seed(0)
    features, flow = torch.randn(6, 5, 7, 11), 3 * torch.randn(6, 2, 7, 11)
    warped = warp(features, flow).flip(axis)
    torch.testing.assert_close(warp(features.flip(axis), mirrored_flow(flow, axis)), warped, rtol=0, atol=1e-5)
    decoded, logits = torch.randn(2, 5, 7, 11), torch.randn(2, 3, 1, 7, 11)
    contexts, flow = features.unflatten(0, (2, 3)), flow.unflatten(0, (2, 3))
    fused = fuse(decoded, contexts, Flow(flow, logits)).flip(axis)
    mirrored = Flow(mirrored_flow(flow, axis), logits.flip(axis))
    torch.testing.assert_close(fuse(decoded.flip(axis), contexts.flip(axis), mirrored), fused, rtol=0, atol=1e-5)


@torch.no_grad()
def make_flow_symmetric(decoder: ContextDecoder, axis: int) -> None:
    """Averages the weights with their mirror images; a flow's component along the mirrored axis changes its sign."""
    make_symmetric(decoder, axis)
    component = 0 if axis == -1 else 1
    for level in decoder.flow:
        first = level.matching.convs[0].weight
        first = first.view(len(first), 7, 7, 3, 3)  # dy, dx and the kernel
        first.copy_((first + first.flip(axis, axis - 2)) / 2)
        flow_input = level.subpixel.convs[0].weight[:, component - 3]
        flow_input.copy_((flow_input - flow_input.flip(axis)) / 2)
        for part in (level.matching, level.subpixel):
            nn.init.normal_(part.head.weight, std=0.3)
            part.head.weight.copy_((part.head.weight + part.head.weight.flip(axis)) / 2)
            flow_output = part.head.weight[component]
            nn.init.normal_(flow_output, std=0.3)
            flow_output.copy_((flow_output - flow_output.flip(axis)) / 2)
            part.head.bias[component] = 0


@pytest.mark.parametrize("axis", AXES)
@torch.no_grad()
def test_decoding_with_context_commutes_with_mirroring(axis: int) -> None:
    """Three levels with matching at every position: every other one is not a symmetric choice."""
    torch.manual_seed(0)
    widths, latents = [19, 7, 5], torch.randn(2, 2, 3, 5)
    pixels = _Pixels(widths, FLOW)
    make_flow_symmetric(pixels.decoder, axis)
    contexts = [torch.randn(2, 3, shared, 3 << level, 5 << level) for level, shared in enumerate(pixels.decoder.shared)]
    out = pixels(latents, contexts)
    mirrored = pixels(latents.flip(axis), [level.flip(axis) for level in contexts])
    assert not torch.allclose(out, pixels(latents), atol=0.1)
    torch.testing.assert_close(mirrored, out.flip(axis), rtol=1e-3, atol=1e-3)
