"""Discriminators take frames and clips of any size, depend on every pixel, and downsample as StyleGAN2's do."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tokenreel.decoders.losses.discriminators import (
    DiscriminatorConfig,
    EqualizedConv3d,
    ImageDiscriminator,
    TemporalBlock,
    TemporalDiscriminator,
    append_deviation,
)
from tokenreel.errors import ConfigError
from tokenreel.pipelines.training.precision import mixed_precision

CONFIG = DiscriminatorConfig(width=3, multipliers=(1, 2))


@pytest.mark.parametrize(("height", "width"), [(16, 24), (12, 20), (5, 7)])  # three levels; two; odd: none
def test_an_image_discriminator_scores_each_frame_and_depends_on_every_pixel(height: int, width: int) -> None:
    torch.manual_seed(0)
    frames = torch.randn(5, 3, height, width, requires_grad=True)
    scores = ImageDiscriminator(CONFIG, height, width)(frames)
    assert scores.shape == (5,)
    (gradient,) = torch.autograd.grad(scores[2], frames)
    assert (gradient[2] != 0).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
def test_a_temporal_discriminator_scores_clips_of_any_length_and_depends_on_every_frame(frames: int) -> None:
    torch.manual_seed(0)
    clips = torch.randn(2, 3, frames, 16, 24, requires_grad=True)
    scores = TemporalDiscriminator(CONFIG, 16, 24)(clips)
    assert scores.shape == (2,)
    (gradient,) = torch.autograd.grad(scores[1], clips)
    assert (gradient[1] != 0).all()


def test_a_temporal_discriminator_distinguishes_a_clip_from_its_reverse() -> None:
    torch.manual_seed(0)
    clip = torch.randn(1, 3, 5, 16, 16)
    discriminator = TemporalDiscriminator(CONFIG, 16, 16)
    assert (discriminator(clip) - discriminator(clip.flip(2))).abs() > 1e-3


def test_gradients_of_a_clip_that_shrinks_to_two_frames_are_near_those_of_fp32() -> None:
    """Under a CPU's autocast alone they may be uninitialised memory."""
    torch.manual_seed(0)
    discriminator, clips = TemporalDiscriminator(DiscriminatorConfig(16, (1, 2)), 16, 16), torch.randn(2, 3, 4, 16, 16)
    gradients = []
    for precision in ("fp32", "bf16"):
        with mixed_precision(torch.device("cpu"), precision):
            score = discriminator(clips).sum()
        gradients.append(torch.autograd.grad(score, list(discriminator.parameters())))
    for exact, found in zip(*gradients, strict=True):
        assert (found - exact).norm() <= 0.2 * exact.norm()  # bf16 activations give 0.05


def test_a_temporal_block_removes_two_frames_while_there_are_more_than_two() -> None:
    block = TemporalBlock(2, 3)
    shapes = [block(torch.zeros(1, 2, frames, 8, 12)).shape for frames in (5, 3, 2, 1)]
    assert shapes == [(1, 3, 3, 4, 6), (1, 3, 1, 4, 6), (1, 3, 2, 4, 6), (1, 3, 1, 4, 6)]


def test_levels_end_at_four_pixels_and_the_last_multiplier_is_repeated() -> None:
    assert CONFIG.widths(256, 256) == [3, 6, 6, 6, 6, 6, 6]
    assert CONFIG.widths(24, 36) == [3, 6, 6], "9 pixels cannot be halved"
    assert DiscriminatorConfig(8, (1, 1, 2, 2, 4, 4)).widths(256, 256) == [8, 8, 16, 16, 32, 32, 32], "as CCVS on BAIR"


@pytest.mark.parametrize(("kind", "shape"), [(ImageDiscriminator, (1, 3)), (TemporalDiscriminator, (1, 3, 4))])
def test_every_leaky_relu_has_the_slope_of_stylegan2(kind, shape, monkeypatch) -> None:
    slopes, leaky_relu = [], functional.leaky_relu
    monkeypatch.setattr(functional, "leaky_relu", lambda x, slope: slopes.append(slope) or leaky_relu(x, slope))
    kind(CONFIG, 12, 20)(torch.zeros(*shape, 12, 20))
    assert slopes == [0.2] * 7  # the first, two in each of two blocks, the last, the hidden layer


def test_an_equalized_3d_conv_is_torchs_with_scaled_weights() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 7, 9)
    for stride, space in (1, 1), (2, 0):  # a strided one follows a blur, which pads
        conv = EqualizedConv3d(2, 3, (3, 3, 3), stride=stride)
        weight, strides = conv.weight / math.sqrt(2 * 27), (1, stride, stride)
        for shorten, time in (False, 1), (True, 0):
            expected = functional.conv3d(x, weight, conv.bias, strides, (time, space, space))
            torch.testing.assert_close(conv(x, shorten), expected)


@pytest.mark.parametrize(("number", "size"), [(6, 3), (8, 4), (7, 1)])
def test_the_deviation_is_that_of_each_group_by_brute_force(number: int, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(number, 5, 2, 3)
    channel = append_deviation(x)[:, 5]
    groups = number // size
    for sample in range(number):
        group = x[sample % groups :: groups].double()
        expected = ((group - group.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(channel[sample], expected.float().expand(2, 3))


def test_an_invalid_configuration_is_rejected() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        DiscriminatorConfig(multipliers=())
