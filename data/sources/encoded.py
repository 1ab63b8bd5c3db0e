"""What sources of compressed videos share: a reader that stays open from one clip of a video to its next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import numpy as np

from tokenreel.data.sources.base import VideoEntry, VideoSource
from tokenreel.data.spec import Framing
from tokenreel.data.video import VideoFile, VideoProbe, VideoReader


class EncodedSource(VideoSource):
    """Videos that FFmpeg decodes. A member says only where the bytes of each one are."""

    def __init__(self, location: str, entries: Iterable[VideoEntry]) -> None:
        self.location = location
        self.entries = tuple(sorted(entries, key=lambda entry: entry.id))
        self._open: tuple[int, VideoReader] | None = None

    @abstractmethod
    def _file(self, index: int) -> VideoFile:
        """The bytes of a video."""

    def probe(self, index: int) -> VideoProbe:
        return self._reader(index).probe

    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        return self._reader(index).read(indices, framing)

    def _reader(self, index: int) -> VideoReader:
        if self._open is None or self._open[0] != index:
            if self._open is not None:
                self._open[1].close()
                self._open = None
            self._open = index, VideoReader(self._file(index))
        return self._open[1]
