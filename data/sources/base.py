"""What every source of videos is: a list of named videos, each of which can be probed and read by frame number.

A source knows nothing of clips, splits by hash, or tokens; those are the plan's. It holds no torch, so that a decode
worker starts quickly.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokenreel.data.controls.frame_table import FrameTables
from tokenreel.data.spec import Framing
from tokenreel.data.video.reader import VideoProbe
from tokenreel.errors import DataError


@dataclass(frozen=True)
class VideoEntry:
    """One video of a source."""

    id: str  # unique in the source, the same on every machine: a path below the location, never absolute, without ..
    label: str | None = None  # name of its class
    split: str | None = None  # as the source calls it (train, val, test, ...); None where it does not say


@dataclass(frozen=True, eq=False)
class ReadRequest:
    """Frames of one video."""

    video: int  # index into the source's entries
    indices: np.ndarray  # int64 [n] ascending source frame numbers
    framing: Framing


class VideoSource(ABC):
    """A set of videos in a fixed order, for as long as the files stay as they are.

    Decode workers open it again by its `location`, and splits are drawn by hash of the ids; so neither ids nor labels
    may depend on the working directory, on the order in which a file system lists files, or on what was read before.
    Whatever is in a file, what goes wrong is a DataError: DecodeFailure where the video is to blame, every time anew.
    """

    location: str  # what `open_source` was given
    entries: tuple[VideoEntry, ...]  # sorted by id

    @abstractmethod
    def probe(self, index: int) -> VideoProbe:
        """What the video's container says; nothing is decoded. Raises DecodeFailure where it cannot be read at all."""

    @abstractmethod
    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        """int64 [n] ascending source frame numbers -> uint8 [n, H, W, 3], framed. Calls may come in any order.

        Raises DecodeFailure where one of these frames does not come out whole, and as `require_frames`.
        """

    def columns(self, file: str) -> tuple[str, ...]:
        """The names of the numbers that the table `file` has for each frame. Raises DataError where there is none."""
        raise DataError(f"{self.location}: this kind of source has no table {file!r} of numbers for each frame")

    def numbers(self, index: int, file: str, columns: tuple[str, ...]) -> np.ndarray:
        """float32 [source frames, S]: these columns of the table `file` for a video. Raises DataError as `columns`."""
        raise DataError(f"{self.location}: this kind of source has no table {file!r} of numbers for each frame")

    def table_sha256(self, file: str) -> str | None:
        """Hex sha256 of the table `file`; None where no file holds it. Raises DataError as `columns`."""
        return None

    def sound(self, index: int, rate: int) -> np.ndarray:
        """float32 [n] in [-1, 1], `rate` samples a second; sample 0 is heard when the video's first frame appears.

        Raises DataError where this kind of source has no sound, DecodeFailure where this video's does not decode.
        """
        raise DataError(f"{self.location}: this kind of source has no sound")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted; empty where the source has no labels."""
        return tuple(sorted({entry.label for entry in self.entries if entry.label is not None}))

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the entries: two processes that opened the same location compare what they see."""
        lines = [[entry.id, entry.label, entry.split] for entry in self.entries]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


class TableFileSource(VideoSource):
    """Its member sets `_tables`; a video goes by its id in them."""

    _tables: FrameTables

    def columns(self, file: str) -> tuple[str, ...]:
        return self._tables.columns(file)

    def numbers(self, index: int, file: str, columns: tuple[str, ...]) -> np.ndarray:
        return self._tables.numbers(self.entries[index].id, file, columns)

    def table_sha256(self, file: str) -> str:
        return self._tables.sha256(file)
