"""Views tell the truth: their flow leads to where things went, their mask to where they are not to be seen."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.decoders.context.augmented_views import ViewConfig, blur, make_view
from tokenreel.decoders.context.occlusion import draw_hidden, occluded_in_target, smooth_noise
from tokenreel.decoders.context.similarity_transform import Similarity, draw_similarity
from tokenreel.decoders.context.warp import pixel_grid, warp
from tokenreel.errors import ConfigError

HEIGHT, WIDTH = 47, 59
CPU = torch.device("cpu")
OFF = ViewConfig(elastic=0, zoom=0, rotation=0, translation=0, blur=0, occlusion=0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int) -> Tensor:
    """Smooth random frames in [-1, 1], with structure some five pixels wide."""
    return smooth_noise((count, 3, HEIGHT, WIDTH), 0.1, seeded(99), CPU).mul(0.5).clamp(-1, 1)


def test_a_view_with_all_off_is_the_frame_itself() -> None:
    frames = torch.rand(3, 3, HEIGHT, WIDTH) * 2 - 1
    view = make_view(frames, OFF, seeded(1))
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
    frames = pictures(5)
    view = make_view(frames, dataclasses.replace(OFF, **parts), seeded(2))
    visible = (1 - view.occluded).expand_as(frames).bool()
    assert visible.float().mean() > 0.35
    assert psnr(warp(view.context, view.flow), frames, visible) > 38
    assert psnr(view.context, frames, visible) < 30


def test_what_is_not_occluded_comes_back_and_what_is_does_not() -> None:
    """The border of an occlusion, where pixels are half hidden, lowers the 38 dB of the test before to 32."""
    frames = pictures(7)
    config = dataclasses.replace(OFF, elastic=0.025, translation=0.1, occlusion=0.4, hidden="grey")
    view = make_view(frames, config, seeded(14))
    occluded, back = view.occluded.expand_as(frames).bool(), warp(view.context, view.flow)
    assert psnr(back, frames, ~occluded) > 32
    assert psnr(back, frames, occluded) < 15


def psnr(found: Tensor, wanted: Tensor, where: Tensor) -> float:
    return 10 * math.log10(4 / (found - wanted)[where].square().mean().item())


def test_rotation_zoom_and_translation_invert_exactly() -> None:
    """Against matrices: places in the view = R(-angle) zoom (q - middle - shift) + middle, of NumPy."""
    motion = draw_similarity((3, HEIGHT, WIDTH), ViewConfig(zoom=0.3, rotation=70, translation=0.2), seeded(3), CPU)
    pixels = pixel_grid(HEIGHT, WIDTH, CPU)
    places = motion.invert(pixels)
    torch.testing.assert_close(motion.apply(places), pixels.expand(3, -1, -1, -1), rtol=0, atol=1e-4)
    middle = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    for n in range(3):
        angle, zoom = motion.angle[n].item(), motion.zoom[n].item()
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
        for x, y in ((0, 0), (58, 0), (7, 43)):
            place = np.linalg.solve(matrix, np.array([x, y]) - middle - motion.shift[n].numpy()) + middle
            np.testing.assert_allclose(places[n, :, y, x], place, atol=1e-4)


def test_zoom_magnifies_and_translation_shifts_by_its_pixels() -> None:
    middle = torch.tensor([5.0, 8.0]).view(1, 2, 1, 1)
    corner = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    twice = Similarity(torch.tensor([2.0]), torch.zeros(1), torch.zeros(1, 2), middle)
    assert twice.apply(corner).flatten().tolist() == [3.0, 5.0]
    moved = Similarity(torch.ones(1), torch.zeros(1), torch.tensor([[4.0, -3.0]]), middle)
    assert moved.apply(corner).flatten().tolist() == [5.0, -1.0]


def test_strengths_are_drawn_from_their_whole_ranges() -> None:
    config = ViewConfig(zoom=0.2, rotation=30, translation=0.1)
    motion = draw_similarity((500, HEIGHT, WIDTH), config, seeded(4), CPU)
    for drawn, low, high in (
        (motion.zoom, 0.8, 1.2),
        (motion.angle, -math.pi / 6, math.pi / 6),
        (motion.shift[:, 0], -0.1 * WIDTH, 0.1 * WIDTH),
        (motion.shift[:, 1], -0.1 * HEIGHT, 0.1 * HEIGHT),
    ):
        margin = 0.02 * (high - low)
        assert low <= drawn.min() < low + margin
        assert high - margin < drawn.max() <= high


def test_smooth_noise_has_the_covariance_of_filtered_white_noise() -> None:
    """Estimated from many fields: exp(-r^2 / 4 sigma^2), the border's pixels as the middle's."""
    fields = smooth_noise((20000, 1, 23, 19), 0.13, seeded(5), CPU)[:, 0]
    sigma = 0.13 * 23
    for anchor in ((0, 0), (11, 9)):
        found = (fields * fields[:, anchor[0], anchor[1], None, None]).mean(0)
        y, x = torch.meshgrid(torch.arange(23) - anchor[0], torch.arange(19) - anchor[1], indexing="ij")
        expected = torch.exp(-(x**2 + y**2) / (4 * sigma**2))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.045)  # six standard errors of the estimate


def test_elastic_field_has_the_strength_asked_for() -> None:
    flow = make_view(torch.zeros(64, 3, HEIGHT, WIDTH), dataclasses.replace(OFF, elastic=0.03), seeded(6)).flow
    assert flow.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.03 * HEIGHT] * 2, rel=0.05)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_occlusion_hides_its_share_and_is_grey(share: float) -> None:
    hidden = draw_hidden((300, 1, HEIGHT, WIDTH), share, 0.1, seeded(7), CPU)
    assert hidden.mean().item() == pytest.approx(share, abs=0.02)
    config = dataclasses.replace(OFF, occlusion=share, hidden="grey")
    view = make_view(torch.ones(2, 3, HEIGHT, WIDTH), config, seeded(8))
    assert torch.equal(view.context == 0, view.occluded.expand(-1, 3, -1, -1) == 1)  # nothing moved: the same mask


@pytest.mark.parametrize("count", [1, 3])
def test_hidden_parts_show_the_frame_before_in_the_batch_or_a_single_one_mirrored(count: int) -> None:
    frames = torch.rand(count, 3, HEIGHT, WIDTH, generator=seeded(1))
    view = make_view(frames, dataclasses.replace(OFF, occlusion=0.5), seeded(8))  # nothing moves
    other = frames[[2, 0, 1]] if count == 3 else frames.flip(3)
    torch.testing.assert_close(view.context, torch.where(view.occluded == 1, other, frames), rtol=0, atol=1e-4)


def test_occlusion_in_the_targets_coordinates_agrees_with_brute_force() -> None:
    generator = seeded(9)
    hidden = (torch.rand(2, 1, 11, 13, generator=generator) > 0.5).float()
    flow = torch.randn(2, 2, 11, 13, generator=generator) * 3
    found = occluded_in_target(hidden, flow)
    for n, y, x in np.ndindex(2, 11, 13):
        px, py = x + flow[n, 0, y, x].item(), y + flow[n, 1, y, x].item()
        if not (-0.5 <= px <= 12.5 and -0.5 <= py <= 10.5):
            assert found[n, 0, y, x] == 1
            continue
        share = 0.0
        for cx, cy in ((math.floor(px) + i, math.floor(py) + j) for i in (0, 1) for j in (0, 1)):
            weight = (1 - abs(px - cx)) * (1 - abs(py - cy))
            share += weight * hidden[n, 0, min(max(cy, 0), 10), min(max(cx, 0), 12)].item()
        assert found[n, 0, y, x] == float(share > 0.5)


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


def test_a_generator_makes_the_same_view_again_and_autocast_the_same_geometry() -> None:
    frames = pictures(2)
    view, again = (make_view(frames, ViewConfig(), seeded(11)) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        half = make_view(frames, ViewConfig(), seeded(11))
    other = make_view(frames, ViewConfig(), seeded(12))
    for name in ("context", "flow", "occluded"):
        first = getattr(view, name)
        assert torch.equal(first, getattr(again, name))
        assert torch.equal(first, getattr(half, name))
        assert not torch.equal(first, getattr(other, name))


@pytest.mark.parametrize(
    "change",
    [{"zoom": 0.7}, {"blur": 2.5}, {"occlusion": 1.0}, {"smoothness": 0.0}, {"elastic": -1.0}, {"per_clip": 0}],
)
def test_strengths_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(change))} \(="):
        ViewConfig(**change)


def test_an_elastic_field_that_would_fold_is_refused() -> None:
    assert ViewConfig(elastic=0.05, smoothness=0.1).elastic == 0.05
    with pytest.raises(ConfigError, match=r"elastic \(=0.051\) .* half of smoothness \(=0.1\)"):
        ViewConfig(elastic=0.051, smoothness=0.1)
