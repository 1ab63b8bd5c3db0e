"""How a token grid is cut into subscale slices (LVT, section 3.2; Video Transformer, arXiv 1906.02634, section 3.1).

Slice (a, b, c) holds every st-th step from a on, every sh-th row from b on, every sw-th column from c on. The order is
slice by slice, (0, 0, 0) first and c fastest; within a slice by location (t, h, w) in raster order; at a location
codebook by codebook. So the tokens of a clip in generation order are an array [slices, P, q]. In numpy, so that a prior
can be built on the meta device.

P locations of a slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokenreel.errors import ConfigError
from tokenreel.priors.layers.positions import raster_coordinates


@dataclass(frozen=True)
class Slices:
    """The slices of a grid. Raises ConfigError where the factor does not divide the grid."""

    grid: tuple[int, int, int]  # t, h, w of the clip
    factor: tuple[int, int, int]  # st, sh, sw

    def __post_init__(self) -> None:
        for axis, size, by in zip(("steps", "rows", "columns"), self.grid, self.factor, strict=True):
            if by < 1 or size % by:
                raise ConfigError(
                    f"subscale factor {by} does not divide the {size} {axis} of the token grid {self.grid}"
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
    def locations(self) -> int:
        """P, the number of locations of a slice."""
        return math.prod(self.shape)

    def coordinates(self) -> np.ndarray:
        """int64 [slices, P, 3]: t, h, w of each location, in the clip."""
        inside = raster_coordinates(self.shape) * np.array(self.factor)
        return raster_coordinates(self.factor)[:, None] + inside[None]

    def neighbours(self, kernel: tuple[int, int, int]) -> np.ndarray:
        """int64 [slices, P, taps]: the locations that a kernel centred on each location covers, as indices into
        [slices * P]; slices * P outside of the clip. Raises ConfigError for an even kernel, which has no centre.
        """
        if min(kernel) < 1 or not all(size % 2 for size in kernel):
            raise ConfigError(f"kernel (={kernel}) must be odd along each axis")
        covered = self.coordinates()[:, :, None] + raster_coordinates(kernel) - np.array(kernel) // 2
        return self._index_of(covered)

    def _index_of(self, coordinates: np.ndarray) -> np.ndarray:
        """Coordinates [..., 3] in the clip -> indices into [slices * P]; slices * P outside of the clip."""
        outside = ((coordinates < 0) | (coordinates >= np.array(self.grid))).any(-1)
        inside = coordinates * ~np.expand_dims(outside, -1)
        in_slice, slices = inside // np.array(self.factor), inside % np.array(self.factor)
        index = np.ravel_multi_index(tuple(np.moveaxis(slices, -1, 0)), self.factor) * self.locations
        index += np.ravel_multi_index(tuple(np.moveaxis(in_slice, -1, 0)), self.shape)
        return np.where(outside, self.count * self.locations, index)


def earlier_neighbours(shape: tuple[int, int, int], kernel: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The receptive field of a causal convolution in a slice of `shape`.

    The kernel ends at the location itself in time and rows and is centred in columns. At column 0 its tap to the left
    covers the last location of the row before: otherwise the first columns of a row would not see that location, nor
    would attention show it to them. Returns the taps that are ever inside of the slice, int64 [n], as indices in raster
    order of the kernel, and the location that each covers, int64 [P, n], P outside of the slice.
    """
    t, h, w = kernel
    taps = raster_coordinates(kernel) - np.array([t - 1, h - 1, w // 2])
    own = len(taps) - 1 - w // 2  # the location itself and what is right of it come last
    coordinates = raster_coordinates(shape)[:, None] + taps[:own]
    inside = ((coordinates >= 0) & (coordinates < np.array(shape))).all(-1)
    covered = np.ravel_multi_index(tuple(np.moveaxis(coordinates * inside[..., None], -1, 0)), shape)
    covered = np.where(inside, covered, np.prod(shape))
    if w > 1:
        covered[1:, own - 1] = np.arange(len(covered) - 1)
    used = np.flatnonzero((covered < np.prod(shape)).any(axis=0))
    return used, covered[:, used]
