"""Tabletop's drawing: against brute force, and independent of batch and size."""

from __future__ import annotations

import numpy as np
import pytest

from tokenreel.data.tabletop import drawing
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.tabletop.drawing import EDGE, draw
from tokenreel.data.tabletop.figures import Box, Disc, Figure, Link

WHITE = (255, 255, 255)
CENTRES = np.array([[0.31, 0.47], [0.35, 0.53]])


def _figures() -> dict[str, Figure]:
    along = np.array([[0.6, 0.8], [0.8, 0.6]])
    return {
        "disc": Disc(CENTRES, WHITE, 0.2),
        "box": Box(CENTRES, WHITE, 0.2, 0.05),
        "link": Link(CENTRES, WHITE, along, 0.4, 0.08),
    }


@pytest.mark.parametrize("name", ["disc", "box", "link"])
def test_edges_cover_the_area_of_the_figure(name: str) -> None:
    """The brightness of a white figure on black equals the area of a finely sampled one, as edges are anti-aliased."""
    size, fine = 41, 7
    figure = _figures()[name]
    light = draw(np.zeros((3, size, size), np.float32), [figure], 2)[..., 0].sum((1, 2)) / 255
    grid = ((np.arange(size * fine) + 0.5) / (size * fine)).astype(np.float32)
    inside = figure.distance(slice(0, 2), grid, grid[:, None]) <= 0
    assert light == pytest.approx(inside.sum((1, 2)) / fine**2, rel=0.01)


@pytest.mark.parametrize("name", ["disc", "box", "link"])
def test_distances_grow_by_one_per_unit(name: str) -> None:
    """Outside the outline the distance grows by 1 per unit, so that the anti-aliased edge is uniform."""
    grid = ((np.arange(83) + 0.5) / 83).astype(np.float32)
    distance = _figures()[name].distance(slice(0, 1), grid, grid[:, None])[0]
    slope = np.hypot(*np.gradient(distance.astype(np.float64), 1 / 83))
    outside = distance[1:-1, 1:-1] > 0.02
    assert outside.sum() > 1000
    assert slope[1:-1, 1:-1][outside] == pytest.approx(1.0, abs=0.06)


def test_motion_by_a_fraction_of_a_pixel_is_visible() -> None:
    """Moving a disc by a quarter of a pixel moves its centre of brightness by a quarter of a pixel."""
    size = 37
    centres = np.array([[0.5, 0.5], [0.5 + 0.25 / size, 0.5]])
    light = draw(np.zeros((3, size, size), np.float32), [Disc(centres, WHITE, 0.2)], 2)[..., 0].astype(np.float64)
    x = (light.sum(1) * np.arange(size)).sum(1) / light.sum((1, 2))
    assert x[1] - x[0] == pytest.approx(0.25, abs=0.01)
    assert EDGE > 1


def test_frames_do_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TabletopConfig(height=29, width=47, frames=13)
    expected = tabletop_clip(config, 1).frames
    monkeypatch.setattr(drawing, "BLOCK_PIXELS", 1)
    assert np.array_equal(tabletop_clip(config, 1).frames, expected)


def test_a_scene_is_the_same_in_any_size() -> None:
    """A large frame, averaged down, is close to the small one."""
    small, large = (tabletop_clip(TabletopConfig(height=n, width=n, frames=7), 2).frames for n in (64, 192))
    averaged = large.reshape(7, 64, 3, 64, 3, 3).mean((2, 4))
    assert np.abs(averaged - small).mean() < 3
