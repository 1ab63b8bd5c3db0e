"""The interface of sources: a list of named videos, each of which can be probed and read by frame number.

Clips and splits by hash belong to the plan. Nothing here imports torch, so that decode workers start quickly.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokenreel.data.controls.frame_table import FrameTables
from tokenreel.data.sources.content import Content, FilePart, content_of
from tokenreel.data.sources.inventory import Inventory
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import VideoProbe
from tokenreel.data.video.probe_store import ProbeStore
from tokenreel.errors import DataError


@dataclass(frozen=True)
class VideoEntry:
    """One video of a source."""

    id: str  # unique and the same on every machine: a path relative to the location, without ..
    label: str | None = None  # name of its class
    split: str | None = None  # the source's name for it (train, val, test, ...); None if it has none
    group: str | None = None  # videos of one group, such as the cameras of a scene, are never in different splits


@dataclass(frozen=True, eq=False)
class ReadRequest:
    """Frames of one video."""

    video: int  # index into the source's entries
    indices: np.ndarray  # int64 [n] ascending source frame numbers
    framing: Framing


class VideoSource(ABC):
    """A set of videos in a fixed order, as long as the files do not change.

    Decode workers open it again by its `location`, and splits follow from a hash of the ids; so neither ids nor labels
    may depend on the working directory, on the order in which a file system lists files, or on what was read before.
    Whatever a file contains, every error is a DataError, and a DecodeFailure, each time, if the video causes it.
    """

    location: str  # the argument of `open_source`
    entries: tuple[VideoEntry, ...]  # sorted by id
    inventory: Inventory = Inventory()  # what the opener found at the location and did not take

    probe_store: ProbeStore | None = None  # for other processes, used by sources for which probing is slow

    # Called with each packet or frame that is read, so that a decode worker is known not to hang: the time
    # limit is from one call to the next.
    on_progress: Callable[[], None] = staticmethod(lambda: None)

    @abstractmethod
    def probe(self, index: int) -> VideoProbe:
        """What the video's container states; nothing is decoded. Raises DecodeFailure if it cannot be read."""

    def known_probe(self, index: int) -> VideoProbe | None:
        """The probe of a video if it is kept; else None. The video is not opened."""
        return None

    @abstractmethod
    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        """int64 [n] ascending source frame numbers -> uint8 [n, H, W, 3], framed. Calls may come in any order.

        Raises DecodeFailure if one of these frames cannot be decoded correctly, and as `require_frames`.
        """

    def parts(self, index: int) -> Sequence[FilePart]:
        """The files, or parts of files, with a video's frames; none if it is in no file."""
        return ()

    def content(self, index: int) -> Content | None:
        """What distinguishes a video's files from others of their names. Raises DataError if one cannot be read."""
        return content_of(self.parts(index))

    def columns(self, file: str) -> tuple[str, ...]:
        """The names of the columns of numbers in the per-frame table `file`. Raises DataError if there is none."""
        raise DataError(f"{self.location}: sources of this kind have no per-frame tables, so {file!r} cannot be read")

    def numbers(self, index: int, file: str, columns: tuple[str, ...]) -> np.ndarray:
        """float32 [source frames, S]: these columns of the table `file` for a video. Raises DataError as `columns`."""
        raise DataError(f"{self.location}: sources of this kind have no per-frame tables, so {file!r} cannot be read")

    def table_sha256(self, file: str) -> str | None:
        """Hex sha256 of the table `file`; None if the table is not a file. Raises DataError as `columns`."""
        return None

    def sound(self, index: int, rate: int, first: int, stop: int) -> np.ndarray:
        """float32 [n] in [-1, 1]: the samples [first, stop) at `rate` samples per second, fewer where the sound ends.

        Sample 0 coincides with the video's first frame. The samples do not depend on what was read before.
        Raises DataError if this kind of source has no sound, DecodeFailure if this video's cannot be decoded.
        """
        raise DataError(f"{self.location}: sources of this kind have no sound")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted; empty if the source has no labels."""
        return tuple(sorted({entry.label for entry in self.entries if entry.label is not None}))

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the entries, by which two processes that opened the same location check that they agree."""
        lines = [[entry.id, entry.label, entry.split, entry.group] for entry in self.entries]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


class TableFileSource(VideoSource):
    """A source with per-frame tables in files. A subclass sets `_tables`, which name videos by their ids."""

    _tables: FrameTables

    def columns(self, file: str) -> tuple[str, ...]:
        return self._tables.columns(file)

    def numbers(self, index: int, file: str, columns: tuple[str, ...]) -> np.ndarray:
        return self._tables.numbers(self.entries[index].id, file, columns)

    def table_sha256(self, file: str) -> str:
        return self._tables.sha256(file)
