"""The base class of sources of uint8 arrays: HDF5, .npz and .npy files.

An array is one video, [T, H, W, C] or grey [T, H, W], or a stack of them, [N, T, H, W, C] or grey [N, T, H, W]; four
axes mean one video where the last is 1 or 3. An array named `labels` with N entries gives the classes of a stack.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.content import FilePart
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.pixels import PixelSource
from tokenreel.errors import DataError

LABELS = "labels"


@dataclass(frozen=True)
class _ArrayVideo:
    """The array that contains a video, and its row."""

    array: str  # its name
    row: int | None  # of the stack; None where the array is one video


class StackSource(PixelSource):
    """Videos in named arrays. A subclass returns an array by its name."""

    def __init__(
        self,
        location: str,
        shapes: Mapping[str, tuple[int, ...]],
        labels: Sequence[str] | None,
        frame_rate: float | None,
    ) -> None:
        if not shapes:
            raise DataError(f"{location}: no uint8 array of videos in it, [N, T, H, W, C] or [T, H, W, C]")
        self._shapes = shapes
        self._videos: dict[str, _ArrayVideo] = {}
        for name, shape in shapes.items():
            videos = _array_videos(location, name, shape)
            for key in videos.keys() & self._videos:
                raise DataError(f"{location}: two arrays contain a video named {key!r}; rename one of them")
            self._videos |= videos
        if labels is not None and len(labels) != len(self._videos):
            raise DataError(f"{location}: {LABELS!r} has {len(labels)} entries for {len(self._videos)} videos")
        names = labels if labels is not None else [None] * len(self._videos)
        entries = (VideoEntry(key, label) for key, label in zip(self._videos, names, strict=True))
        super().__init__(location, entries, frame_rate)

    def parts(self, index: int) -> list[FilePart]:
        return [FilePart(Location(self.location).path)]

    @abstractmethod
    def _array(self, name: str) -> Any:
        """The array of that name; only slices of it are read."""

    def _shape(self, index: int) -> tuple[int, int, int]:
        video = self._videos[self.entries[index].id]
        shape = self._shapes[video.array]
        frames, height, width = (shape if video.row is None else shape[1:])[:3]
        return frames, height, width

    def _frames(self, index: int, numbers: np.ndarray) -> Iterable[np.ndarray]:
        video = self._videos[self.entries[index].id]
        span = slice(int(numbers[0]), int(numbers[-1]) + 1)
        array = self._array(video.array)
        frames = np.asarray(array[span] if video.row is None else array[video.row, span])[numbers - numbers[0]]
        return frames if frames.ndim == 4 else frames[..., None]


def _array_videos(location: str, name: str, shape: tuple[int, ...]) -> dict[str, _ArrayVideo]:
    """The videos of one array, by id."""
    if len(shape) == 3 or (len(shape) == 4 and shape[-1] in (1, 3)):
        return {name: _ArrayVideo(name, None)}
    if len(shape) == 4 or (len(shape) == 5 and shape[-1] in (1, 3)):
        digits = len(str(shape[0]))
        return {f"{name}/{row:0{digits}}": _ArrayVideo(name, row) for row in range(shape[0])}
    raise DataError(f"{location}: array {name!r} has the shape {list(shape)}; expected [N, T, H, W, C] with C = 1 or 3")
