"""The base class of sources of uncompressed frames, which have no times unless the user states a rate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import numpy as np

from tokenreel.data.sources.base import VideoEntry, VideoSource
from tokenreel.data.spec import Framing
from tokenreel.data.video.framing import frame_into
from tokenreel.data.video.probe import DecodeFailure, VideoProbe, require_frames


class PixelSource(VideoSource):
    """Videos whose frames can be read one by one. `frame_rate`: stated by the user, in frames per second, or None."""

    def __init__(self, location: str, entries: Iterable[VideoEntry], frame_rate: float | None) -> None:
        self.location = location
        self.entries = tuple(sorted(entries, key=lambda entry: entry.id))
        self._frame_rate = frame_rate

    @abstractmethod
    def _shape(self, index: int) -> tuple[int, int, int]:
        """T, H, W of a video."""

    @abstractmethod
    def _frames(self, index: int, numbers: np.ndarray) -> Iterable[np.ndarray]:
        """The frames of these numbers (ascending, without repeats): uint8 [H, W, C] with 1 or 3 channels."""

    def probe(self, index: int) -> VideoProbe:
        frames, height, width = self._shape(index)
        if 0 in (frames, height, width):
            raise DecodeFailure("too-short", f"it has no pixels: {frames} frames of {width}x{height}")
        if self._frame_rate is None:
            return VideoProbe(np.full(frames, np.nan), height, width, "raw")
        times = np.arange(frames, dtype=np.float64) / self._frame_rate
        return VideoProbe(times, height, width, "raw", 1 / self._frame_rate)

    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        require_frames(indices, self.probe(index).frames)
        numbers, inverse = np.unique(indices, return_inverse=True)
        framed = []
        for frame in self._frames(index, numbers):
            framed.append(frame_into(framing, _to_rgb(frame)))
            self.on_progress()
        return np.stack(framed)[inverse]


def _to_rgb(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> [H, W, 3]."""
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else np.ascontiguousarray(frame)
