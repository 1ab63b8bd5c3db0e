"""Motion, cross-fade and spread against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tokenreel.metrics.generation import Spread, cross_fade, motion, spread


def _clips(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def test_motion_is_the_mean_change_of_a_channel() -> None:
    clip = np.zeros((3, 2, 5, 3), np.uint8)
    clip[1] = 7
    clip[2] = 2
    assert motion(clip) == 6
    assert motion(clip[None]) == 6
    assert motion(clip[:1].repeat(4, 0)) == 0


def test_a_cross_fade_is_linear_and_ends_in_both_frames() -> None:
    start, end = _clips(2, 5, 7, 3)
    fade = cross_fade(start, end, 5)
    assert np.array_equal(fade[0], start)
    assert np.array_equal(fade[-1], end)
    assert np.abs(fade[1] - (0.75 * start + 0.25 * end)).max() <= 0.5


def test_spread_is_the_deviation_over_clips() -> None:
    clips = _clips(11, 3, 5, 7, 3)
    assert spread(clips) == pytest.approx(math.sqrt(clips.astype(float).var(0).mean()))
    assert spread(clips[:1].repeat(3, 0)) == 0
    assert math.isnan(spread(clips[:0]))


def test_parts_of_the_clips_have_the_same_spread_exactly() -> None:
    clips, parts = _clips(11, 3, 5, 7, 3), [Spread() for _ in range(3)]
    for part, some in zip(parts, (clips[:2], clips[2:9], clips[9:]), strict=True):
        part.update(some)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert parts[0].compute() == spread(clips)
