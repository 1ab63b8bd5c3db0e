"""Parts that move on their own: the truth told about a view, against the view itself and pixel by pixel."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tokenreel.decoders.context.augmented_views import ViewConfig, make_view
from tokenreel.decoders.context.object_motion import MovingConfig, draw_parts, move_parts
from tokenreel.decoders.context.similarity_transform import Similarity
from tokenreel.decoders.context.warp import warp
from tokenreel.errors import ConfigError

HEIGHT, WIDTH = 23, 31
MOVING = MovingConfig(share=1.0, zoom=0, rotation=0, translation=0.3)
ONLY_PARTS = ViewConfig(elastic=0, zoom=0, rotation=0, translation=0, blur=0, occlusion=0, moving=MOVING)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def before_something(count: int) -> tuple[Tensor, Tensor]:
    """Frames of noise in which a square lies before a still picture, and that picture."""
    still = torch.rand(count, 3, HEIGHT, WIDTH, generator=seeded(1)) * 0.8
    frames = still.clone()
    frames[..., 5:16, 7:19] = -torch.rand(count, 3, 11, 12, generator=seeded(2)) - 0.2
    return frames, still


def test_whole_pixels_against_copying_by_hand() -> None:
    torch.manual_seed(0)
    frame, behind = torch.rand(1, 3, HEIGHT, WIDTH), torch.rand(1, 3, HEIGHT, WIDTH)
    part = torch.zeros(1, 1, HEIGHT, WIDTH)
    part[..., 5:11, 7:13] = 1
    still, (dx, dy) = torch.zeros(1, 2, HEIGHT, WIDTH), (3, -2)
    motion = Similarity(torch.ones(1), torch.zeros(1), torch.tensor([[-dx, -dy]]).float(), torch.zeros(1, 2, 1, 1))
    view, flow, covered = move_parts(frame, frame, still, still, part, motion, behind)
    expected, above = frame.clone(), torch.zeros(1, 1, HEIGHT, WIDTH)
    expected[..., 5:11, 7:13] = behind[..., 5:11, 7:13]
    expected[..., 5 + dy : 11 + dy, 7 + dx : 13 + dx] = frame[..., 5:11, 7:13]
    above[..., 5 + dy : 11 + dy, 7 + dx : 13 + dx] = 1
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)
    assert torch.equal(flow[:, 0], dx * part[:, 0])
    assert torch.equal(flow[:, 1], dy * part[:, 0])
    assert torch.equal(covered, above * (1 - part))


def test_what_is_not_occluded_is_where_the_flow_says_and_covered_parts_are_occluded() -> None:
    frames, still = before_something(7)
    config = dataclasses.replace(ONLY_PARTS, moving=dataclasses.replace(MOVING, zoom=0.05, rotation=20))
    view = make_view(frames, config, seeded(3), still)
    back, visible = warp(view.context, view.flow), (1 - view.occluded).expand_as(frames).bool()
    assert view.moving is not None
    assert 0.7 < visible.float().mean() < 0.98
    error = (back - frames).abs()
    assert error[visible].median() < 0.05  # shifts are no whole pixels, and the frames are noise
    assert error[~visible].median() > 0.4
    assert (view.flow.norm(dim=1) > 0).float().mean() == view.moving.mean()  # all else stays in its place
    uncovered = (view.moving > 0) & (view.context - still).abs().amax(1, keepdim=True).lt(1e-5)
    assert uncovered.any()  # what lies behind a part comes to light where the part has gone


def test_a_part_is_what_differs() -> None:
    frames, still = before_something(2)
    parts = draw_parts(frames, still, 1.0, seeded(5))
    square = torch.zeros(2, 1, HEIGHT, WIDTH)
    square[..., 5:16, 7:19] = 1
    assert torch.equal(parts, square)
    shares = draw_parts(frames.repeat(300, 1, 1, 1), still.repeat(300, 1, 1, 1), 0.7, seeded(6))
    assert (shares <= square.repeat(300, 1, 1, 1)).all()
    assert abs(shares.sum() / square.sum() / 300 - 0.7) < 0.03
    assert not draw_parts(still, still, 1.0, seeded(5)).any()


@pytest.mark.parametrize("change", [{"share": 1.5}, {"zoom": 0.6}, {"translation": -0.1}])
def test_what_is_out_of_range_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"moving.{next(iter(change))} \(="):
        MovingConfig(**change)
