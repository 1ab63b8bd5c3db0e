"""Augmented views: their flow leads to where pixels have moved, their mask covers what the context does not show."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.decoders.context.augmented_views import AugmentedViewConfig, blur, make_augmented_views
from tokenreel.decoders.context.occlusion import occluded_in_target, sample_occlusion, smooth_noise
from tokenreel.decoders.context.similarity_transform import SimilarityTransform, sample_similarity
from tokenreel.decoders.context.warp import pixel_grid, warp
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom

HEIGHT, WIDTH = 47, 59
CPU = torch.device("cpu")
OFF = AugmentedViewConfig(elastic=0, zoom=0, rotation=0, translation=0, blur=0, occlusion=0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(seed: int, count: int) -> SampleRandom:
    return SampleRandom(seed, np.arange(count), CPU)


def random_frames(count: int) -> Tensor:
    """Smooth random frames in [-1, 1], with structure some five pixels wide."""
    return smooth_noise((3, HEIGHT, WIDTH), 0.1, numbers(99, count)).mul(0.5).clamp(-1, 1)


def test_a_view_with_everything_off_is_the_frame() -> None:
    frames = torch.rand(3, 3, HEIGHT, WIDTH) * 2 - 1
    view = make_augmented_views(frames, OFF, numbers(1, 3))
    torch.testing.assert_close(view.context, frames, rtol=0, atol=1e-4)
    assert torch.equal(view.flow, torch.zeros(3, 2, HEIGHT, WIDTH))
    assert torch.equal(view.occluded, torch.zeros(3, 1, HEIGHT, WIDTH))


@pytest.mark.parametrize(
    "parts",
    [
        {"elastic": 0.025},
        {"zoom": 0.3},
        {"rotation": 17.0},
        {"translation": 0.1},
        {"elastic": 0.025, "zoom": 0.1, "rotation": 17.0, "translation": 0.1},
    ],
)
def test_warping_the_context_by_the_flow_gives_the_frame_back(parts: dict[str, float]) -> None:
    """At least 38 dB where the flow does not leave the context (sampled twice), and the context itself is below 30."""
    frames = random_frames(5)
    view = make_augmented_views(frames, dataclasses.replace(OFF, **parts), numbers(2, 5))
    visible = (1 - view.occluded).expand_as(frames).bool()
    assert visible.float().mean() > 0.35
    assert psnr(warp(view.context, view.flow), frames, visible) > 38
    assert psnr(view.context, frames, visible) < 30


def test_only_what_is_not_occluded_is_warped_back() -> None:
    """The border of an occlusion, where pixels are half occluded, lowers the 38 dB of the previous test to 32."""
    frames = random_frames(7)
    config = dataclasses.replace(OFF, elastic=0.025, translation=0.1, occlusion=0.4, occluder="grey")
    view = make_augmented_views(frames, config, numbers(14, 7))
    occluded, back = view.occluded.expand_as(frames).bool(), warp(view.context, view.flow)
    assert psnr(back, frames, ~occluded) > 32
    assert psnr(back, frames, occluded) < 15


def psnr(found: Tensor, expected: Tensor, mask: Tensor) -> float:
    return 10 * math.log10(4 / (found - expected)[mask].square().mean().item())


def test_rotation_zoom_and_translation_invert_exactly() -> None:
    """Against matrices of NumPy: points in the view = R(-angle) zoom (q - center - shift) + center."""
    config = AugmentedViewConfig(zoom=0.3, rotation=70, translation=0.2)
    motion = sample_similarity(HEIGHT, WIDTH, config, numbers(3, 3))
    pixels = pixel_grid(HEIGHT, WIDTH, CPU)
    points = motion.invert(pixels)
    torch.testing.assert_close(motion.apply(points), pixels.expand(3, -1, -1, -1), rtol=0, atol=1e-4)
    center = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    for n in range(3):
        angle, zoom = motion.angle[n].item(), motion.zoom[n].item()
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
        for x, y in ((0, 0), (58, 0), (7, 43)):
            point = np.linalg.solve(matrix, np.array([x, y]) - center - motion.shift[n].numpy()) + center
            np.testing.assert_allclose(points[n, :, y, x], point, atol=1e-4)


def test_zoom_magnifies_and_translation_shifts_by_its_pixels() -> None:
    center = torch.tensor([5.0, 8.0]).view(1, 2, 1, 1)
    corner = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    twice = SimilarityTransform(torch.tensor([2.0]), torch.zeros(1), torch.zeros(1, 2), center)
    assert twice.apply(corner).flatten().tolist() == [3.0, 5.0]
    moved = SimilarityTransform(torch.ones(1), torch.zeros(1), torch.tensor([[4.0, -3.0]]), center)
    assert moved.apply(corner).flatten().tolist() == [5.0, -1.0]


def test_strengths_are_sampled_from_their_whole_ranges() -> None:
    config = AugmentedViewConfig(zoom=0.2, rotation=30, translation=0.1)
    motion = sample_similarity(HEIGHT, WIDTH, config, numbers(4, 500))
    for sampled, low, high in (
        (motion.zoom, 0.8, 1.2),
        (motion.angle, -math.pi / 6, math.pi / 6),
        (motion.shift[:, 0], -0.1 * WIDTH, 0.1 * WIDTH),
        (motion.shift[:, 1], -0.1 * HEIGHT, 0.1 * HEIGHT),
    ):
        margin = 0.02 * (high - low)
        assert low <= sampled.min() < low + margin
        assert high - margin < sampled.max() <= high


def test_smooth_noise_has_the_covariance_of_filtered_white_noise() -> None:
    """Estimated from many fields: exp(-r^2 / 4 sigma^2), at the border as in the middle."""
    fields = smooth_noise((1, 23, 19), 0.13, numbers(5, 20000))[:, 0]
    sigma = 0.13 * 23
    for anchor in ((0, 0), (11, 9)):
        found = (fields * fields[:, anchor[0], anchor[1], None, None]).mean(0)
        y, x = torch.meshgrid(torch.arange(23) - anchor[0], torch.arange(19) - anchor[1], indexing="ij")
        expected = torch.exp(-(x**2 + y**2) / (4 * sigma**2))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.045)  # six standard errors of the estimate


def test_elastic_field_has_the_configured_strength() -> None:
    config = dataclasses.replace(OFF, elastic=0.03)
    flow = make_augmented_views(torch.zeros(64, 3, HEIGHT, WIDTH), config, numbers(6, 64)).flow
    assert flow.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.03 * HEIGHT] * 2, rel=0.05)


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_occlusion_covers_its_fraction_and_is_grey(fraction: float) -> None:
    occlusion = sample_occlusion(HEIGHT, WIDTH, fraction, 0.1, numbers(7, 300))
    assert occlusion.mean().item() == pytest.approx(fraction, abs=0.02)
    config = dataclasses.replace(OFF, occlusion=fraction, occluder="grey")
    view = make_augmented_views(torch.ones(2, 3, HEIGHT, WIDTH), config, numbers(8, 2))
    assert torch.equal(view.context == 0, view.occluded.expand(-1, 3, -1, -1) == 1)  # nothing moves: the same mask


@pytest.mark.parametrize("count", [1, 3])
def test_the_occluder_is_the_other_frame_of_a_pair_or_a_single_one_mirrored(count: int) -> None:
    frames = torch.rand(count, 3, HEIGHT, WIDTH, generator=seeded(1))
    view = make_augmented_views(frames, dataclasses.replace(OFF, occlusion=0.5), numbers(8, count))  # nothing moves
    other = torch.cat([frames[[1, 0]], frames[2:].flip(3)]) if count == 3 else frames.flip(3)
    torch.testing.assert_close(view.context, torch.where(view.occluded == 1, other, frames), rtol=0, atol=1e-4)


def test_occlusion_in_the_targets_coordinates_agrees_with_brute_force() -> None:
    generator = seeded(9)
    occlusion = (torch.rand(2, 1, 11, 13, generator=generator) > 0.5).float()
    flow = torch.randn(2, 2, 11, 13, generator=generator) * 3
    found = occluded_in_target(occlusion, flow)
    for n, y, x in np.ndindex(2, 11, 13):
        px, py = x + flow[n, 0, y, x].item(), y + flow[n, 1, y, x].item()
        if not (-0.5 <= px <= 12.5 and -0.5 <= py <= 10.5):
            assert found[n, 0, y, x] == 1
            continue
        fraction = 0.0
        for cx, cy in ((math.floor(px) + i, math.floor(py) + j) for i in (0, 1) for j in (0, 1)):
            weight = (1 - abs(px - cx)) * (1 - abs(py - cy))
            fraction += weight * occlusion[n, 0, min(max(cy, 0), 10), min(max(cx, 0), 12)].item()
        assert found[n, 0, y, x] == float(fraction > 0.5)


def test_blur_is_a_gaussian_of_each_frames_own_sigma() -> None:
    frames = torch.rand(3, 2, 17, 19, generator=seeded(10)) * 2 - 1
    blurred = blur(frames, torch.tensor([0.0, 0.7, 2.0]))
    torch.testing.assert_close(blurred[0], frames[0], rtol=0, atol=1e-6)
    for n, sigma in ((1, 0.7), (2, 2.0)):
        weights = np.exp(-0.5 * (np.arange(-6, 7) / sigma) ** 2)
        kernel = np.outer(weights, weights) / weights.sum() ** 2
        padded = np.pad(frames[n].double().numpy(), ((0, 0), (6, 6), (6, 6)), mode="edge")
        for y, x in ((0, 0), (8, 9), (16, 3)):
            expected = (padded[:, y : y + 13, x : x + 13] * kernel).sum((1, 2))
            np.testing.assert_allclose(blurred[n, :, y, x], expected, atol=1e-5)


def test_views_are_deterministic_and_autocast_does_not_change_their_geometry() -> None:
    frames = random_frames(2)
    view, again = (make_augmented_views(frames, AugmentedViewConfig(), numbers(11, 2)) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        half = make_augmented_views(frames, AugmentedViewConfig(), numbers(11, 2))
    other = make_augmented_views(frames, AugmentedViewConfig(), numbers(12, 2))
    for name in ("context", "flow", "occluded"):
        first = getattr(view, name)
        assert torch.equal(first, getattr(again, name))
        assert torch.equal(first, getattr(half, name))
        assert not torch.equal(first, getattr(other, name))


@pytest.mark.parametrize(
    "change",
    [{"zoom": 0.7}, {"blur": 2.5}, {"occlusion": 1.0}, {"smoothness": 0.0}, {"elastic": -1.0}, {"frames_per_clip": 0}],
)
def test_strengths_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(change))} \(="):
        AugmentedViewConfig(**change)


def test_an_elastic_field_that_would_fold_is_refused() -> None:
    assert AugmentedViewConfig(elastic=0.05, smoothness=0.1).elastic == 0.05
    with pytest.raises(ConfigError, match=r"elastic \(=0.051\) .* half of smoothness \(=0.1\)"):
        AugmentedViewConfig(elastic=0.051, smoothness=0.1)
