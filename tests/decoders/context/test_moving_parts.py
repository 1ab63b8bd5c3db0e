"""Parts that move on their own: the truth told about a view, against the view itself and pixel by pixel."""

from __future__ import annotations

import dataclasses

import torch

from tokenreel.decoders.context.moving_parts import draw_parts, move_parts
from tokenreel.decoders.context.views import ViewConfig, make_view
from tokenreel.decoders.context.warp import warp

HEIGHT, WIDTH = 23, 31
STILL = ViewConfig(elastic=0, zoom=0, rotation=0, translation=0, blur=0, moving=0.25, occlusion=0)


def test_whole_pixels_against_copying_by_hand() -> None:
    torch.manual_seed(0)
    frame, behind = torch.rand(1, 3, HEIGHT, WIDTH), torch.rand(1, 3, HEIGHT, WIDTH)
    part = torch.zeros(1, 1, HEIGHT, WIDTH)
    part[..., 5:11, 7:13] = 1
    still, (dx, dy) = torch.zeros(1, 2, HEIGHT, WIDTH), (3, -2)
    view, flow, covered = move_parts(frame, frame, still, still, part, torch.tensor([[dx, dy]]).float(), behind)
    expected, above = frame.clone(), torch.zeros(1, 1, HEIGHT, WIDTH)
    expected[..., 5:11, 7:13] = behind[..., 5:11, 7:13]
    expected[..., 5 + dy : 11 + dy, 7 + dx : 13 + dx] = frame[..., 5:11, 7:13]
    above[..., 5 + dy : 11 + dy, 7 + dx : 13 + dx] = 1
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)
    assert torch.equal(flow[:, 0], dx * part[:, 0])
    assert torch.equal(flow[:, 1], dy * part[:, 0])
    assert torch.equal(covered, above * (1 - part))


def test_what_is_not_occluded_is_where_the_flow_says_and_covered_parts_are_occluded() -> None:
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand(7, 3, HEIGHT, WIDTH, generator=generator)
    view = make_view(frames, dataclasses.replace(STILL, reach=0.3), generator)
    back, visible = warp(view.context, view.flow), (1 - view.occluded).expand_as(frames).bool()
    assert 0.6 < visible.float().mean() < 0.95
    error = (back - frames).abs()
    assert error[visible].median() < 0.12  # shifts are no whole pixels, and the frames are noise
    assert error[~visible].median() > 0.2


def test_parts_have_their_share_and_stay_within_reach() -> None:
    parts, shift = draw_parts(torch.zeros(300, 3, HEIGHT, WIDTH), 0.25, 0.1, 0.2, torch.Generator().manual_seed(1))
    assert abs(parts.mean().item() - 0.25) < 0.02
    limits = torch.tensor([0.2 * WIDTH, 0.2 * HEIGHT])
    assert (shift.abs() <= limits).all()
    assert (shift.abs().amax(0) > 0.95 * limits).all()
