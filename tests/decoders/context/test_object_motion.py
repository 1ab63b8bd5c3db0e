"""Object motion: the flow and masks of a view, against the view itself and pixel by pixel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.decoders.context.augmented_views import AugmentedViewConfig, make_augmented_views
from tokenreel.decoders.context.object_motion import ObjectMotionConfig, move_parts, sample_parts
from tokenreel.decoders.context.similarity_transform import SimilarityTransform
from tokenreel.decoders.context.warp import warp
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom

HEIGHT, WIDTH = 23, 31
OBJECT_MOTION = ObjectMotionConfig(fraction=1.0, zoom=0, rotation=0, translation=0.3)
ONLY_PARTS = AugmentedViewConfig(
    elastic=0, zoom=0, rotation=0, translation=0, blur=0, occlusion=0, object_motion=OBJECT_MOTION
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(seed: int, count: int) -> SampleRandom:
    return SampleRandom(seed, np.arange(count), torch.device("cpu"))


def squares(count: int) -> tuple[Tensor, Tensor]:
    """Frames with a square of noise over a background of noise, and the background."""
    background = torch.rand(count, 3, HEIGHT, WIDTH, generator=seeded(1)) * 0.8
    frames = background.clone()
    frames[..., 5:16, 7:19] = -torch.rand(count, 3, 11, 12, generator=seeded(2)) - 0.2
    return frames, background


def test_motion_by_whole_pixels_equals_copying() -> None:
    torch.manual_seed(0)
    frame, background = torch.rand(1, 3, HEIGHT, WIDTH), torch.rand(1, 3, HEIGHT, WIDTH)
    part = torch.zeros(1, 1, HEIGHT, WIDTH)
    part[..., 5:11, 7:13] = 1
    zero, (dx, dy) = torch.zeros(1, 2, HEIGHT, WIDTH), (3, -2)
    shift = torch.tensor([[-dx, -dy]]).float()
    motion = SimilarityTransform(torch.ones(1), torch.zeros(1), shift, torch.zeros(1, 2, 1, 1))
    view, flow, covered = move_parts(frame, frame, zero, zero, part, motion, background)
    expected, above = frame.clone(), torch.zeros(1, 1, HEIGHT, WIDTH)
    expected[..., 5:11, 7:13] = background[..., 5:11, 7:13]
    expected[..., 5 + dy : 11 + dy, 7 + dx : 13 + dx] = frame[..., 5:11, 7:13]
    above[..., 5 + dy : 11 + dy, 7 + dx : 13 + dx] = 1
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)
    assert torch.equal(flow[:, 0], dx * part[:, 0])
    assert torch.equal(flow[:, 1], dy * part[:, 0])
    assert torch.equal(covered, above * (1 - part))


def test_visible_pixels_are_where_the_flow_points_and_covered_ones_are_occluded() -> None:
    frames, background = squares(7)
    config = dataclasses.replace(ONLY_PARTS, object_motion=dataclasses.replace(OBJECT_MOTION, zoom=0.05, rotation=20))
    view = make_augmented_views(frames, config, numbers(3, 7), background)
    back, visible = warp(view.context, view.flow), (1 - view.occluded).expand_as(frames).bool()
    assert view.moving is not None
    assert 0.7 < visible.float().mean() < 0.98
    error = (back - frames).abs()
    assert error[visible].median() < 0.05  # shifts are not integers, and the frames are noise
    assert error[~visible].median() > 0.4
    assert (view.flow.norm(dim=1) > 0).float().mean() == view.moving.mean()  # everything else is static
    uncovered = (view.moving > 0) & (view.context - background).abs().amax(1, keepdim=True).lt(1e-5)
    assert uncovered.any()  # the background appears where the part was


def test_parts_are_what_differs_from_the_background() -> None:
    frames, background = squares(2)
    parts = sample_parts(frames, background, 1.0, numbers(5, 2))
    square = torch.zeros(2, 1, HEIGHT, WIDTH)
    square[..., 5:16, 7:19] = 1
    assert torch.equal(parts, square)
    sampled = sample_parts(frames.repeat(300, 1, 1, 1), background.repeat(300, 1, 1, 1), 0.7, numbers(6, 600))
    assert (sampled <= square.repeat(300, 1, 1, 1)).all()
    assert abs(sampled.sum() / square.sum() / 300 - 0.7) < 0.03
    assert not sample_parts(background, background, 1.0, numbers(5, 2)).any()


@pytest.mark.parametrize("change", [{"fraction": 1.5}, {"zoom": 0.6}, {"translation": -0.1}])
def test_values_out_of_range_are_rejected(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"^{next(iter(change))} \(="):
        ObjectMotionConfig(**change)
