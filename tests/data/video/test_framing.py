from __future__ import annotations

import numpy as np
import pytest

from tokenreel.data.spec import Framing
from tokenreel.data.video.framing import centered_box, frame_into


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_frame_of_the_target_size_is_not_changed() -> None:
    frame = noise(13, 17)
    assert np.array_equal(frame_into(Framing(13, 17), frame), frame)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(180, 320, (70, 0, 250, 180)), (320, 180, (0, 70, 180, 250)), (23, 23, (0, 0, 23, 23))],
)
def test_the_square_crop_is_the_largest_and_centred(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    assert centered_box(Framing(64, 64), height, width) == box


def test_the_box_has_the_shape_of_the_target() -> None:
    left, top, right, bottom = centered_box(Framing(30, 50), 90, 200)
    assert (right - left, bottom - top) == (150, 90)
    assert left == 25


def test_halving_by_area_is_the_mean_of_each_block() -> None:
    frame = noise(10, 14)
    small = frame_into(Framing(5, 7, resize="area"), frame)
    means = frame.reshape(5, 2, 7, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 1  # rounding


def test_center_crops_and_none_squeezes() -> None:
    frame = np.zeros((10, 30, 3), np.uint8)
    frame[:, :10] = 255  # outside the central square
    assert frame_into(Framing(10, 10), frame).max() == 0
    assert frame_into(Framing(10, 10, crop="none", resize="area"), frame)[:, :3].min() == 255
