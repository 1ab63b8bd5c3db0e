"""Tabletop's optical flow against the motion of its objects and against its pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.tabletop.drawing import draw
from tokenreel.data.tabletop.figures import Disc, Figure, Link
from tokenreel.data.tabletop.flow import flow_and_occlusion

SIZE = 48


def _warp_back(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Samples `frame` bilinearly at each pixel plus its flow: [H, W, C]."""
    height, width = flow.shape[:2]
    x = np.clip(np.arange(width) + flow[..., 0], 0, width - 1.001)
    y = np.clip(np.arange(height)[:, None] + flow[..., 1], 0, height - 1.001)
    j, i = x.astype(int), y.astype(int)
    u, v = (x - j)[..., None], (y - i)[..., None]
    return (
        frame[i, j] * (1 - u) * (1 - v)
        + frame[i, j + 1] * u * (1 - v)
        + frame[i + 1, j] * (1 - u) * v
        + frame[i + 1, j + 1] * u * v
    )


def test_whole_pixels_of_motion_warp_back_exactly() -> None:
    """A patterned object that moves by (5, -3) pixels: what is not occluded is found again, bit for bit."""
    centres = np.array([[0.4, 0.5], [0.4 + 5 / SIZE, 0.5 - 3 / SIZE]])
    figures: list[Figure] = [Disc(centres, (200, 40, 60), 0.22), Disc(centres, (20, 240, 90), 0.1)]
    frames = draw(np.full((3, SIZE, SIZE), 90, np.float32), figures, 2)
    flow, occluded = flow_and_occlusion(figures, 2, SIZE, SIZE)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    from_centre = np.hypot(x - 0.4 * SIZE, y - 0.5 * SIZE)
    inside = from_centre < 0.22 * SIZE - 1
    assert np.allclose(flow[0][inside], (5, -3), atol=1e-4)
    assert not flow[0][from_centre > 0.22 * SIZE].any()
    assert not occluded[0][inside].any()
    back = frames[1][(y + flow[0, ..., 1]).astype(int) % SIZE, (x + flow[0, ..., 0]).astype(int) % SIZE]
    assert np.array_equal(back[inside], frames[0][inside])


def test_what_the_object_moves_over_is_occluded() -> None:
    centres = np.array([[0.3, 0.5], [0.6, 0.5]])
    _, occluded = flow_and_occlusion([Disc(centres, (0, 0, 0), 0.1)], 2, SIZE, SIZE)
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    assert np.array_equal(occluded[0], np.hypot(x - 0.6, y - 0.5) <= 0.1)


def test_what_leaves_the_picture_is_occluded() -> None:
    centres = np.array([[0.95, 0.5], [1.25, 0.5]])
    flow, occluded = flow_and_occlusion([Disc(centres, (0, 0, 0), 0.1)], 2, SIZE, SIZE)
    assert np.array_equal(occluded[0], flow[0, ..., 0] > 0)
    assert occluded.any()


def test_a_rotating_link_moves_as_a_rigid_body() -> None:
    """A quarter turn about the centre maps the point (r, 0) to (0, r)."""
    link = Link(np.full((2, 2), 0.5), (0, 0, 0), np.array([[1.0, 0.0], [0.0, 1.0]]), 0.6, 0.1)
    flow, _ = flow_and_occlusion([link], 2, SIZE, SIZE)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2
    on = (np.abs(y) < 0.09 * SIZE) & (np.abs(x) < 0.3 * SIZE)
    assert np.allclose(flow[0][on], np.stack([-y - x, x - y], -1)[on], atol=1e-3)


def test_objects_flow_by_their_displacement() -> None:
    """In a clip, pixels at the centre of each visible object move exactly as the simulation moved it."""
    clip = tabletop_clip(TabletopConfig(height=61, width=61, frames=41), 1)
    positions = clip.motion.objects * 61
    found = 0
    for t, (now, then) in enumerate(pairwise(positions)):
        for i, place in enumerate(now):
            column, row = place.astype(int)
            accent = np.abs(clip.frames[t, row, column].astype(int) - clip.scene.kinds[i].accent).max() < 2
            if accent and np.abs(then[i] - place).max() > 0.3:
                assert np.allclose(clip.flow[t, row, column], then[i] - place, atol=1e-3)
                found += 1
    assert found > 3


@pytest.mark.parametrize("index", [0, 2, 5])
def test_flow_explains_the_pixels_that_are_not_occluded(index: int) -> None:
    """Warping the next frame back gives this frame, but for the soft edges, far better than the next frame as it is."""
    clip = tabletop_clip(TabletopConfig(height=127, width=163, frames=17), index)
    frames = clip.frames.astype(np.float64)
    back = np.stack([_warp_back(after, flow) for after, flow in zip(frames[1:], clip.flow, strict=True)])
    moves = np.abs(clip.flow).max(-1) > 0.5
    seen = moves & ~clip.occluded
    error = np.abs(back - frames[:-1]).max(-1)[seen]
    unmoved = np.abs(frames[1:] - frames[:-1]).max(-1)[seen]
    assert seen.sum() > 1000
    assert np.median(error) < 1.5
    assert error.mean() < unmoved.mean() / 3
    assert clip.occluded.mean() < 0.1
