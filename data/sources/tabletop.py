"""Synthetic Tabletop data as a source, rendered when it is read: `tabletop:?videos=200&seed=3&frames=32&size=64`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import numpy as np

from tokenreel.data.controls.inputs import STATES
from tokenreel.data.controls.sound import resample
from tokenreel.data.sources.base import VideoEntry, VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.pixels import PixelSource
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.errors import ConfigError, DataError, nearest_name

PREFIX = "tabletop:"
STATE_COLUMNS = ("x", "y")  # tip of the arm, as fractions of width and height
VIDEOS = 200  # by default
_CONFIG_KEYS = tuple(field.name for field in fields(TabletopConfig))


class TabletopSource(PixelSource):
    """Clips 0 to videos - 1 of a seed, labelled with their motion programmes."""

    def __init__(self, location: str, config: TabletopConfig, videos: int) -> None:
        self._config = config
        names = [tabletop_clip(config, index).class_name for index in range(videos)]
        entries = [VideoEntry(f"{index:06d}", name) for index, name in enumerate(names)]
        super().__init__(location, entries, config.frame_rate)

    def columns(self, file: str) -> tuple[str, ...]:
        if file != STATES:
            raise DataError(f"{self.location}: Tabletop data has the table {STATES!r}, not {file!r}")
        return STATE_COLUMNS

    def numbers(self, index: int, file: str, columns: tuple[str, ...]) -> np.ndarray:
        known = self.columns(file)
        for name in columns:
            if name not in known:
                raise DataError(f"{self.location}: {file} has no column {name!r}; {nearest_name(name, known)}")
        return tabletop_clip(self._config, index).state[:, [known.index(name) for name in columns]]

    def sound(self, index: int, rate: int, first: int, stop: int) -> np.ndarray:
        return resample(tabletop_clip(self._config, index).sound, self._config.sample_rate, rate)[first:stop]

    def _shape(self, index: int) -> tuple[int, int, int]:
        return self._config.frames, self._config.height, self._config.width

    def _frames(self, index: int, numbers: np.ndarray) -> Iterable[np.ndarray]:
        return tabletop_clip(self._config, index).frames[numbers]


def open_tabletop(location: Location) -> VideoSource | None:
    """`tabletop:` with options, each a field of `TabletopConfig`, `videos`, or `size` for both height and width."""
    if not location.text.startswith(PREFIX):
        return None
    if str(location.path) != PREFIX:
        raise DataError(f"{location.text}: write {PREFIX} and settings after a ?, as in {PREFIX}?videos=200&size=64")
    options = location.options("videos", "size", *_CONFIG_KEYS)
    numbers = {key: _number(location.text, key, text) for key, text in options.items()}
    videos = int(numbers.pop("videos", VIDEOS))
    if videos < 1:
        raise DataError(f"{location.text}: videos (={videos}) must be at least 1")
    if "size" in numbers:
        numbers["height"] = numbers["width"] = numbers.pop("size")
    try:
        config = TabletopConfig(**numbers)  # type: ignore[arg-type]
    except ConfigError as error:
        raise DataError(f"{location.text}: {error}") from error
    return TabletopSource(location.text, config, videos)


def _number(location: str, key: str, text: str) -> float:
    """The value of a setting: an int, except for the frame rate."""
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{location}: {key} (={text!r}) is not a number") from error
    if key == "frame_rate":
        return value
    if not value.is_integer():
        raise DataError(f"{location}: {key} (={text}) must be an integer")
    return int(value)
