"""Subscale slices against brute force over coordinates, and against the paper's figure 2."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tokenreel.errors import ConfigError
from tokenreel.priors.subscale.slices import Slices, earlier_neighbours

SLICES = Slices(grid=(4, 9, 10), factor=(2, 3, 5))  # slices of 2 x 3 x 2
SHAPE = (2, 3, 5)


def test_order_is_by_slice_then_by_raster() -> None:
    def key(location: tuple[int, ...]) -> tuple[list[int], list[int]]:
        slices = [at % by for at, by in zip(location, SLICES.factor, strict=True)]
        return slices, [at // by for at, by in zip(location, SLICES.factor, strict=True)]

    expected = sorted(itertools.product(*map(range, SLICES.grid)), key=key)
    assert (SLICES.count, SLICES.shape, SLICES.locations) == (30, (2, 3, 2), 12)
    assert np.array_equal(SLICES.coordinates(), np.reshape(expected, (30, 12, 3)))


def test_figure_2() -> None:
    """A clip of 4 x 4 x 4 cut by (2, 2, 2): slice (1, 0, 1) is the sixth, and its last pixel the 48th generated."""
    slices = Slices((4, 4, 4), (2, 2, 2))
    coordinates = slices.coordinates()
    assert coordinates.shape == (8, 8, 3)
    assert coordinates[:, 0].tolist() == [list(offset) for offset in itertools.product((0, 1), repeat=3)]
    assert coordinates[5, -1].tolist() == [3, 2, 3]
    assert coordinates.reshape(-1, 3).tolist().index([3, 2, 3]) == 47


def test_neighbours_are_what_the_kernel_covers() -> None:
    kernel = (3, 1, 5)
    locations = [tuple(location) for location in SLICES.coordinates().reshape(-1, 3).tolist()]
    index_of = {location: i for i, location in enumerate(locations)}
    offsets = list(itertools.product(*(range(-(size // 2), size // 2 + 1) for size in kernel)))
    expected = [
        [index_of.get((t + dt, h + dh, w + dw), len(locations)) for dt, dh, dw in offsets] for t, h, w in locations
    ]
    assert np.array_equal(SLICES.neighbours(kernel).reshape(len(locations), -1), expected)


def test_earlier_neighbours_end_at_the_location() -> None:
    kernel = (3, 2, 5)
    locations = list(itertools.product(*map(range, SHAPE)))
    offsets = list(itertools.product((-2, -1, 0), (-1, 0), (-2, -1, 0, 1, 2)))
    expected = np.full((len(locations), len(offsets)), len(locations))
    for (i, location), (j, offset) in itertools.product(enumerate(locations), enumerate(offsets)):
        covered = tuple(int(at) for at in np.add(location, offset))
        if covered in locations and offset < (0, 0, 0):
            expected[i, j] = locations.index(covered)
        if location[2] == 0 and i > 0 and offset == (0, 0, -1):  # the row before ends where this one begins
            expected[i, j] = i - 1
    taps, covers = earlier_neighbours(SHAPE, kernel)
    assert set(taps) == {j for j in range(len(offsets)) if (expected[:, j] < len(locations)).any()}
    assert np.array_equal(covers, expected[:, taps])


@pytest.mark.parametrize(("steps", "taps"), [(5, 25), (2, 16), (1, 7)])
def test_taps_that_are_never_inside_of_a_slice_are_omitted(steps: int, taps: int) -> None:
    assert len(earlier_neighbours((steps, 7, 11), (3, 3, 3))[0]) == taps


def test_each_location_is_the_left_neighbour_of_the_next() -> None:
    """In a slice of one column too."""
    for shape in ((1, 5, 1), (2, 3, 5)):
        taps, covers = earlier_neighbours(shape, (3, 3, 3))
        count = len(covers)
        assert covers[:, taps.tolist().index(9 + 9 + 6)].tolist() == [count, *range(count - 1)]


def test_a_factor_must_divide() -> None:
    with pytest.raises(ConfigError, match=r"factor 3 does not divide the 10 rows .*\(4, 10, 6\)"):
        Slices((4, 10, 6), (2, 3, 3))
    with pytest.raises(ConfigError, match="factor 0 does not divide the 4 steps"):
        Slices((4, 10, 6), (0, 2, 3))


def test_an_even_kernel_has_no_centre() -> None:
    with pytest.raises(ConfigError, match=r"kernel \(=\(3, 2, 1\)\) must be odd"):
        SLICES.neighbours((3, 2, 1))
