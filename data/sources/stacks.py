"""The base class of sources of uint8 arrays: HDF5, .npz and .npy files.

An array is one video or a stack of them, with its axes in any order: `?axes=TNHW` states the order where the shape
leaves it open, and `?keys=` chooses among the arrays of a file. An array named `labels` with N entries gives the
classes of a stack. Arrays or groups named `train` and `test`, or `x_train` and `x_test`, are splits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

import numpy as np

from tokenreel.data.sources.axes import axes_of, in_order, parse_axes
from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.content import FilePart
from tokenreel.data.sources.folder_splits import OUTSIDE, places_by_container
from tokenreel.data.sources.inventory import Inventory
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.pixels import PixelSource
from tokenreel.errors import DataError, nearest_name

LABELS = "labels"
OBSERVATIONS = ("obs", "next_obs", "observations")  # groups with an array for each camera
NO_VIDEOS = "array-without-videos"
NOT_CHOSEN = "array-not-in-keys"
MAX_VIDEOS = 1_000_000  # of one file; a header may claim any number, and each takes about 400 bytes
MAX_LABEL_BYTES = 4 << 10  # of one class's name
MAX_ARRAY_BYTES = 1 << 30  # that is read into memory as a whole


@dataclass(frozen=True)
class ArrayOptions:
    """What the location states about the arrays of a file."""

    frame_rate: float | None
    axes: str | None
    keys: tuple[str, ...]  # patterns of names; none: every array

    @classmethod
    def of(cls, location: Location) -> Self:
        options = location.options("fps", "axes", "keys")
        axes = parse_axes(location.text, options["axes"]) if "axes" in options else None
        keys = tuple(key for key in options.get("keys", "").split(",") if key)
        if "keys" in options and not keys:
            raise DataError(f"{location.text}: keys is empty; name the arrays to use, such as keys=*/obs/image")
        return cls(location.frame_rate("axes", "keys"), axes, keys)


@dataclass(frozen=True)
class _ArrayVideo:
    """The array that contains a video, and its row."""

    array: str  # its name
    row: int | None  # of the stack; None where the array is one video


class StackSource(PixelSource):
    """Videos in named arrays. A subclass returns an array by its name, and its labels.

    `skipped`: names of arrays without videos.
    """

    def __init__(
        self,
        location: str,
        shapes: Mapping[str, tuple[int, ...]],
        options: ArrayOptions,
        skipped: Iterable[str] = (),
    ) -> None:
        if not shapes:
            raise DataError(f"{location}: no uint8 array of videos in it, [N, T, H, W, C] or [T, H, W, C]")
        self._shapes = _chosen(location, shapes, options.keys)
        _require_no_successors(location, self._shapes)
        self._axes = {name: axes_of(location, name, shape, options.axes) for name, shape in self._shapes.items()}
        if options.axes is not None and options.axes not in self._axes.values():
            found = ", ".join(str(list(shape)) for shape in list(self._shapes.values())[:3])
            raise DataError(f"{location}: axes (={options.axes}) names {len(options.axes)} axes; arrays here: {found}")
        self._videos: dict[str, _ArrayVideo] = {}
        for name in self._shapes:
            videos = self._videos_in(location, name)
            for key in videos.keys() & self._videos:
                raise DataError(f"{location}: two arrays contain a video named {key!r}; rename one of them")
            self._videos |= videos
        labels = self._labels(len(self._videos))
        names = labels if labels is not None else [None] * len(self._videos)
        places = places_by_container({key: video.array for key, video in self._videos.items()})
        entries = (
            VideoEntry(key, label, place.split, _scene_of(self._videos[key]))
            for (key, place), label in zip(places.items(), names, strict=True)
            if place is not None
        )
        super().__init__(location, entries, options.frame_rate)
        outside = (key for key, place in places.items() if place is None)
        unchosen = shapes.keys() - self._shapes.keys()
        self.inventory = Inventory.of({OUTSIDE: outside, NO_VIDEOS: skipped, NOT_CHOSEN: unchosen})

    def parts(self, index: int) -> list[FilePart]:
        return [FilePart(Location(self.location).path)]

    @abstractmethod
    def _array(self, name: str) -> Any:
        """The array of that name; only slices of it are read."""

    @abstractmethod
    def _labels(self, count: int) -> list[str] | None:
        """The classes of the `count` videos; None if the file has none. Raises DataError if it has another number."""

    def _videos_in(self, location: str, name: str) -> dict[str, _ArrayVideo]:
        """The videos of one array, by id."""
        axes, shape = self._axes[name], self._shapes[name]
        if "N" not in axes:
            return {name: _ArrayVideo(name, None)}
        count = shape[axes.index("N")]
        if count + len(self._videos) > MAX_VIDEOS:
            raise DataError(f"{location}: array {name!r} claims {count} videos; a file holds at most {MAX_VIDEOS}")
        return {f"{name}/{row:0{len(str(count))}}": _ArrayVideo(name, row) for row in range(count)}

    def _shape(self, index: int) -> tuple[int, int, int]:
        array = self._videos[self.entries[index].id].array
        frames, height, width = (self._shapes[array][self._axes[array].index(axis)] for axis in "THW")
        return frames, height, width

    def _frames(self, index: int, numbers: np.ndarray) -> Iterable[np.ndarray]:
        video = self._videos[self.entries[index].id]
        axes = self._axes[video.array]
        parts = {"N": video.row, "T": slice(int(numbers[0]), int(numbers[-1]) + 1)}
        frames = np.asarray(self._array(video.array)[tuple(parts.get(axis, slice(None)) for axis in axes)])
        return in_order(frames, axes.replace("N", ""))[numbers - numbers[0]]


def _scene_of(video: _ArrayVideo) -> str | None:
    """The demonstration that a video is of, in robomimic's layout (demo_0/obs/CAMERA): its cameras are a group."""
    parts = video.array.split("/")
    at = next((at for at, part in enumerate(parts) if part in OBSERVATIONS), None)
    if at is None or not (at or video.row is not None):
        return None
    return "/".join([*parts[:at], *([] if video.row is None else [str(video.row)])])


def require_labels(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], count: int) -> None:
    """Raises DataError unless an array of labels of that shape and type names the classes of `count` videos."""
    if shape != (count,):
        raise DataError(f"{where}: {LABELS!r} has the shape {list(shape)}, but there are {count} videos")
    if dtype.kind not in "iuSUO":
        raise DataError(f"{where}: {LABELS!r} must be a list of integers or names, got {dtype}")
    if dtype.itemsize > MAX_LABEL_BYTES:
        raise DataError(
            f"{where}: {LABELS!r} claims names of {dtype.itemsize:,} bytes; each has at most {MAX_LABEL_BYTES:,}"
        )


def label_names(labels: np.ndarray) -> list[str]:
    """Integers, text or UTF-8 as names of classes. Raises ValueError for other bytes."""
    return [label.decode() if isinstance(label, bytes) else str(label) for label in labels]


def _chosen(
    location: str, shapes: Mapping[str, tuple[int, ...]], patterns: tuple[str, ...]
) -> Mapping[str, tuple[int, ...]]:
    """The arrays that one of the patterns matches; all where there is none. Raises DataError where one matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in shapes):
            raise DataError(
                f"{location}: keys (={pattern}) matches no uint8 array; {nearest_name(pattern, list(shapes)[:50])}"
            )
    return {n: shape for n, shape in shapes.items() if not patterns or any(fnmatchcase(n, p) for p in patterns)}


def _require_no_successors(location: str, names: Iterable[str]) -> None:
    """Raises DataError where an array repeats the frames of another one step later, as `next_obs` repeats `obs`, or
    `rgb_next` repeats `rgb`.

    As videos of their own, some would be trained on and their twins held out.
    """
    known = set(names)
    for name in sorted(known):
        parts = name.split("/")
        twin = "/".join(map(_before, parts))
        if twin != name and twin in known:
            folder = next(_before(part) for part in parts if _before(part) != part)
            raise DataError(
                f"{location}: arrays {twin!r} and {name!r} hold the same frames, which would be both trained on and "
                f"held out: choose one of them, such as ?keys={'*/' * (len(parts) > 1)}{folder}{'/*' * ('/' in name)}"
            )


def _before(part: str) -> str:
    """The name of the array or group that one of this name repeats one step later."""
    return part.removeprefix("next_").removesuffix("_next")
