"""How a grid of codes is cut into subscale slices (LVT, section 3.2; Video Transformer, arXiv 1906.02634, section 3.1).

Slice (a, b, c) holds every st-th step from a on, every sh-th row from b, every sw-th column from c. Slices come one
after the other, (0, 0, 0) first and c counting fastest; inside a slice places come in raster order, at a place the
codebooks: a clip's codes in generation order are an array [slices, P, q]. Knows places only, no codes; numpy, so that a
prior can be built on the meta device.

P places of a slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class Slices:
    """Raises ConfigError where the factor does not divide the grid."""

    grid: tuple[int, int, int]  # t, h, w of the clip
    factor: tuple[int, int, int]  # st, sh, sw

    def __post_init__(self) -> None:
        for axis, size, by in zip(("steps", "rows", "columns"), self.grid, self.factor, strict=True):
            if by < 1 or size % by:
                raise ConfigError(
                    f"subscale factor {by} does not divide the {size} {axis} of the code grid {self.grid}"
                )

    @property
    def count(self) -> int:
        return math.prod(self.factor)

    @property
    def shape(self) -> tuple[int, int, int]:
        """t, h, w of a slice."""
        t, h, w = (size // by for size, by in zip(self.grid, self.factor, strict=True))
        return t, h, w

    @property
    def places(self) -> int:
        """P"""
        return math.prod(self.shape)

    def coordinates(self) -> np.ndarray:
        """int64 [slices, P, 3]: t, h, w in the clip of each place."""
        inside = _raster(self.shape) * np.array(self.factor)
        return _raster(self.factor)[:, None] + inside[None]

    def neighbours(self, kernel: tuple[int, int, int]) -> np.ndarray:
        """int64 [slices, P, taps]: what a kernel centred on each place covers, as index into [slices * P].

        Outside of the clip it is slices * P. Raises ConfigError for an even kernel, which has no centre.
        """
        if min(kernel) < 1 or not all(size % 2 for size in kernel):
            raise ConfigError(f"kernel (={kernel}) must be odd along each axis")
        covered = self.coordinates()[:, :, None] + _raster(kernel) - np.array(kernel) // 2
        return self._index_of(covered)

    def _index_of(self, coordinates: np.ndarray) -> np.ndarray:
        """Coordinates [..., 3] in the clip -> index into [slices * P]; slices * P where outside."""
        outside = ((coordinates < 0) | (coordinates >= np.array(self.grid))).any(-1)
        inside = coordinates * ~np.expand_dims(outside, -1)
        own, among = inside // np.array(self.factor), inside % np.array(self.factor)
        index = np.ravel_multi_index(tuple(np.moveaxis(among, -1, 0)), self.factor) * self.places
        index += np.ravel_multi_index(tuple(np.moveaxis(own, -1, 0)), self.shape)
        return np.where(outside, self.count * self.places, index)


def earlier_neighbours(shape: tuple[int, int, int], kernel: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What a causal convolution sees: the taps that are ever inside of a slice of `shape`, and where they lie.

    The kernel ends at the place itself in time and rows and is centred in columns. Returns the taps, int64 [n], counted
    in raster order of the kernel, and int64 [P, n]: the place that each covers, P where it is outside of the slice.
    """
    t, h, w = kernel
    taps = _raster(kernel) - np.array([t - 1, h - 1, w // 2])
    before = np.arange(len(taps)) < len(taps) - 1 - w // 2  # the place itself and what is right of it are the last taps
    covered = _raster(shape)[:, None] + taps
    inside = ((covered >= 0) & (covered < np.array(shape))).all(-1) & before
    used = np.flatnonzero(inside.any(axis=0))
    places = np.ravel_multi_index(tuple(np.moveaxis(np.where(inside[..., None], covered, 0), -1, 0)), shape)
    return used, np.where(inside, places, np.prod(shape))[:, used]


def _raster(shape: tuple[int, int, int]) -> np.ndarray:
    """int64 [P, 3]: the coordinates of a grid in raster order."""
    return np.indices(shape).reshape(3, -1).T
