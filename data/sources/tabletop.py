"""The embedded data as a source, drawn when it is read: `tabletop:?videos=200&seed=3&frames=32&size=64`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

import numpy as np

from tokenreel.data.controls.needs import STATES
from tokenreel.data.controls.sound import resample
from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.pixels import PixelSource
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.errors import DataError, nearest_name

PREFIX = "tabletop:"
STATE_COLUMNS = ("x", "y")  # tip of the arm, as shares of width and height
VIDEOS = 200  # where the location does not say
_CONFIG_KEYS = tuple(field.name for field in fields(TabletopConfig))


class TabletopSource(PixelSource):
    """Clips 0 to videos - 1 of a seed, labelled with their motion programmes."""

    def __init__(self, location: str, options: Mapping[str, str]) -> None:
        numbers = {key: _number(location, key, text) for key, text in options.items()}
        videos = int(numbers.pop("videos", VIDEOS))
        if videos < 1:
            raise DataError(f"{location}: videos (={videos}) must be at least 1")
        size = numbers.pop("size", None)
        square = {} if size is None else {"height": size, "width": size}
        whole = {key: value if key == "frame_rate" else int(value) for key, value in (square | numbers).items()}
        self._config = TabletopConfig(**whole)  # type: ignore[arg-type]
        names = [tabletop_clip(self._config, index).class_name for index in range(videos)]
        entries = [VideoEntry(f"{index:06d}", name) for index, name in enumerate(names)]
        super().__init__(location, entries, self._config.frame_rate)

    def columns(self, file: str) -> tuple[str, ...]:
        if file != STATES:
            raise DataError(f"{self.location}: the embedded data has the table {STATES!r} and no {file!r}")
        return STATE_COLUMNS

    def numbers(self, index: int, file: str, columns: tuple[str, ...]) -> np.ndarray:
        known = self.columns(file)
        for name in columns:
            if name not in known:
                raise DataError(f"{self.location}: {file} has no column {name!r}; {nearest_name(name, known)}")
        return tabletop_clip(self._config, index).state[:, [known.index(name) for name in columns]]

    def sound(self, index: int, rate: int) -> np.ndarray:
        return resample(tabletop_clip(self._config, index).sound, self._config.sample_rate, rate)

    def _shape(self, index: int) -> tuple[int, int, int]:
        return self._config.frames, self._config.height, self._config.width

    def _frames(self, index: int, numbers: np.ndarray) -> Iterable[np.ndarray]:
        return tabletop_clip(self._config, index).frames[numbers]


def _number(location: str, key: str, text: str) -> float:
    if key not in ("videos", "size", *_CONFIG_KEYS):
        raise DataError(f"{location}: {key!r} is not known; {nearest_name(key, ('videos', 'size', *_CONFIG_KEYS))}")
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{location}: {key} (={text!r}) is not a number") from error
    if key != "frame_rate" and not value.is_integer():
        raise DataError(f"{location}: {key} (={text}) must be a whole number")
    return value
