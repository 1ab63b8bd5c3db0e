"""The base class of sources of compressed videos; its reader stays open from one clip of a video to the next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import numpy as np

from tokenreel.data.controls.sound_reader import SoundReader
from tokenreel.data.sources.base import VideoEntry, VideoSource
from tokenreel.data.spec import Framing
from tokenreel.data.video.container import VideoFile
from tokenreel.data.video.probe import VideoProbe
from tokenreel.data.video.probe_store import FileKey
from tokenreel.data.video.reader import VideoIndex, VideoReader
from tokenreel.errors import DataError

MAX_INDEXED_FRAMES = 1 << 22  # of the videos whose indexes are kept in memory, at 16 bytes per frame
MIN_INDEXED_FRAMES = 1 << 10  # that a video counts for, so that many short ones need little memory too


class EncodedSource(VideoSource):
    """Videos that FFmpeg decodes. A subclass only locates the bytes of each one."""

    def __init__(self, location: str, entries: Iterable[VideoEntry]) -> None:
        self.location = location
        self.entries = tuple(sorted(entries, key=lambda entry: entry.id))
        self._open: tuple[int, VideoReader] | None = None
        # Of recent videos: sound is read while another video is open, and an index costs a pass over the file.
        self._indexes: dict[int, VideoIndex] = {}  # the latest last
        self._indexed = 0  # frames that they count for
        self._open_sound: tuple[tuple[int, int], SoundReader] | None = None  # (video, rate) and its reader

    @abstractmethod
    def _file(self, index: int) -> VideoFile:
        """The file that contains a video."""

    def known_probe(self, index: int) -> VideoProbe | None:
        found = self._indexes.get(index) or self._stored(self._file_key(index))
        return None if found is None else found.probe

    def probe(self, index: int) -> VideoProbe:
        known = self.known_probe(index)
        return self._reader(index).probe if known is None else known

    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        return self._reader(index).read(indices, framing)

    def sound(self, index: int, rate: int, first: int, stop: int) -> np.ndarray:
        if self._open_sound is None or self._open_sound[0] != (index, rate):
            if self._open_sound is not None:
                self._open_sound[1].close()
                self._open_sound = None
            start = float(self.probe(index).frame_times[0])
            self._open_sound = (index, rate), SoundReader(self._file(index), start, rate, self.on_progress)
        return self._open_sound[1].read(first, stop)

    def _reader(self, index: int) -> VideoReader:
        if self._open is None or self._open[0] != index:
            if self._open is not None:
                self._open[1].close()
                self._open = None
            key = self._file_key(index)  # before it is opened, so that a change meanwhile is found
            known = self._forget(index) or self._stored(key)
            self._open = index, VideoReader(self._file(index), known, self.on_progress)
            self._keep(index, self._open[1].index)
            if known is None and self.probe_store is not None and key is not None:
                self.probe_store.add(key, self._open[1].index)
        return self._open[1]

    def _stored(self, key: FileKey | None) -> VideoIndex | None:
        return None if self.probe_store is None or key is None else self.probe_store.find(key)

    def _file_key(self, index: int) -> FileKey | None:
        """What changes with the file of a video; None if nothing is stored or the source does not name the file."""
        if self.probe_store is None or len(parts := self.parts(index)) != 1:
            return None
        (part,) = parts
        try:
            status = part.path.stat()
        except OSError as error:
            raise DataError(f"{part.path}: {error.strerror}") from error
        place = (str(part.path.absolute()), part.start, part.size)
        return *place, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _keep(self, video: int, index: VideoIndex) -> None:
        self._indexes[video] = index
        self._indexed += max(index.probe.frames, MIN_INDEXED_FRAMES)
        while self._indexed > MAX_INDEXED_FRAMES and len(self._indexes) > 1:
            self._forget(next(iter(self._indexes)))

    def _forget(self, video: int) -> VideoIndex | None:
        index = self._indexes.pop(video, None)
        self._indexed -= 0 if index is None else max(index.probe.frames, MIN_INDEXED_FRAMES)
        return index
