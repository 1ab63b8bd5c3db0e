"""Videos in uint8 arrays: what HDF5, npz and npy files share.

An array is one video, [T, H, W, C] or grey [T, H, W], or a stack of them, [N, T, H, W, C] or grey [N, T, H, W]; four
axes mean one video where the last is 1 or 3. An array called `labels` with N entries names the classes of a stack.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.pixels import PixelSource
from tokenreel.errors import DataError

LABELS = "labels"


@dataclass(frozen=True)
class _Place:
    """Where a video is."""

    array: str
    row: int | None  # of the stack; None where the array is one video


class StackSource(PixelSource):
    """Videos in named arrays; a member hands out an array by name."""

    def __init__(
        self,
        location: str,
        shapes: Mapping[str, tuple[int, ...]],
        labels: Sequence[str] | None,
        frame_rate: float | None,
    ) -> None:
        if not shapes:
            raise DataError(f"{location}: it holds no uint8 array of videos, [N, T, H, W, C] or [T, H, W, C]")
        self._shapes = shapes
        self._places: dict[str, _Place] = {}
        for name, shape in shapes.items():
            places = _places(location, name, shape)
            for key in places.keys() & self._places:
                raise DataError(f"{location}: two arrays hold a video called {key!r}; rename one of them")
            self._places |= places
        if labels is not None and len(labels) != len(self._places):
            raise DataError(f"{location}: {LABELS!r} has {len(labels)} entries for {len(self._places)} videos")
        names = labels if labels is not None else [None] * len(self._places)
        entries = (VideoEntry(key, label) for key, label in zip(self._places, names, strict=True))
        super().__init__(location, entries, frame_rate)

    @abstractmethod
    def _array(self, name: str) -> Any:
        """The array of that name; it is only sliced."""

    def _shape(self, index: int) -> tuple[int, int, int]:
        place = self._places[self.entries[index].id]
        shape = self._shapes[place.array]
        frames, height, width = (shape if place.row is None else shape[1:])[:3]
        return frames, height, width

    def _frames(self, index: int, numbers: np.ndarray) -> Iterable[np.ndarray]:
        place = self._places[self.entries[index].id]
        span = slice(int(numbers[0]), int(numbers[-1]) + 1)
        array = self._array(place.array)
        frames = np.asarray(array[span] if place.row is None else array[place.row, span])[numbers - numbers[0]]
        return frames if frames.ndim == 4 else frames[..., None]


def _places(location: str, name: str, shape: tuple[int, ...]) -> dict[str, _Place]:
    """The videos of one array by id."""
    if len(shape) == 3 or (len(shape) == 4 and shape[-1] in (1, 3)):
        return {name: _Place(name, None)}
    if len(shape) == 4 or (len(shape) == 5 and shape[-1] in (1, 3)):
        digits = len(str(shape[0]))
        return {f"{name}/{row:0{digits}}": _Place(name, row) for row in range(shape[0])}
    raise DataError(
        f"{location}: array {name!r} has the shape {list(shape)}; expected [N, T, H, W, C] with 1 or 3 as C"
    )
