"""Baselines and motion, from their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from tokenreel.metrics.baselines import cross_fade, nearest_key_frame, repeat_last
from tokenreel.metrics.motion import motion

SHAPE = (2, 5, 7, 3)  # N, H, W, C


def key_frames() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, SHAPE, dtype=np.uint8), rng.integers(0, 256, SHAPE, dtype=np.uint8)


def test_a_cross_fade_goes_from_the_start_to_the_end_in_equal_steps() -> None:
    start, end = key_frames()
    video = cross_fade(start, end, 11)
    assert video.shape == (2, 11, 5, 7, 3)
    np.testing.assert_array_equal(video[:, 0], start)
    np.testing.assert_array_equal(video[:, -1], end)
    np.testing.assert_allclose(video[:, 3], 0.7 * start + 0.3 * end, atol=0.5001)
    np.testing.assert_array_equal(cross_fade(start[0], end[0], 11), video[0])


@pytest.mark.parametrize(("frames", "from_start"), [(6, 3), (7, 4)])
def test_the_nearest_key_frame_changes_once(frames: int, from_start: int) -> None:
    start, end = key_frames()
    expected = [start] * from_start + [end] * (frames - from_start)
    np.testing.assert_array_equal(nearest_key_frame(start, end, frames), np.stack(expected, 1))


def test_the_last_given_frame_is_repeated() -> None:
    given = np.stack(key_frames(), 1)
    video = repeat_last(given, 5)
    np.testing.assert_array_equal(video[:, :2], given)
    np.testing.assert_array_equal(video[:, 2:], np.stack([given[:, 1]] * 3, 1))
    np.testing.assert_array_equal(repeat_last(given, 2), given)


def test_motion_is_the_mean_change_of_a_frame() -> None:
    video = np.zeros((3, 5, 7, 11, 3), np.uint8)
    assert motion(video) == 0
    video[1, 2] = 200  # of one clip of three, in two of four changes
    assert motion(video) == pytest.approx(200 * 2 / 4 / 3)
    assert motion(255 - video) == motion(video)  # differences of bytes do not wrap around
