"""Reads video files: what a container states about its frames, and frames by number, decoded from a keyframe before.

A frame's number is its rank among the presentation times of the container's packets, so it is well defined
at a constant or variable rate, with frames stored out of order, and where the container states no frame count. Every
frame equals the one that decoding from the beginning gives. Frames are what a player shows: turned, mirrored and with
the pixel aspect ratio that the file states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from tokenreel.data.spec import Framing
from tokenreel.data.video.container import (
    VideoFile,
    decoded_frames,
    open_container,
    packets_of,
    presentation_times,
    require_complete,
)
from tokenreel.data.video.display import orient
from tokenreel.data.video.framing import frame_into
from tokenreel.data.video.keyframes import Keyframe, KeyframeIndex, packets_from
from tokenreel.data.video.probe import DecodeFailure, VideoProbe, require_frames, resample_indices

MIN_SKIPPED = 16  # frames; decoding fewer costs less than seeking
MAX_BAD_KEYFRAMES = 3  # in a row, before a file is decoded from its beginning only
# The default is four times as fast but 2 levels too dark and, on Tabletop, 4 dB further from what was encoded.
_TO_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """What reading all packets of a file gives; with it, the same file is opened again without reading them."""

    probe: VideoProbe
    times: np.ndarray  # int64 [n] ascending presentation times, in units of `time_base`
    time_base: float  # seconds
    keyframes: KeyframeIndex
    counted: bool = False  # a frame's number is how many the decoder gave before, as none has a presentation time


def probe_video(file: VideoFile) -> VideoProbe:
    """The probe of a video file; nothing is decoded. Raises DecodeFailure; DataError where it cannot be opened."""
    with VideoReader(file) as reader:
        return reader.probe


def decode_frames(file: VideoFile, indices: np.ndarray, framing: Framing) -> np.ndarray:
    """int64 [n] ascending frame numbers -> uint8 [n, H, W, 3]. Raises DecodeFailure where one is missing or damaged."""
    with VideoReader(file) as reader:
        return reader.read(indices, framing)


def read_video(path: str | Path, framing: Framing, frames: int | None = None) -> np.ndarray:
    """The first `frames` frames (None: all), framed and resampled to its rate -> uint8 [T, H, W, 3].

    Raises DecodeFailure where one is damaged, or where the video is shorter; DataError where it cannot be opened.
    """
    with VideoReader(Path(path)) as reader:
        indices = resample_indices(reader.probe, framing.frame_rate)
        if frames is not None and len(indices) < frames:
            raise DecodeFailure("too-short", f"{path} has {len(indices)} frames, expected at least {frames}")
        return reader.read(indices[:frames], framing)


class VideoReader:
    """A video file, open for reading. Clips read in the order of their frames cost one pass over the file; a frame far
    ahead, or one before the last that was read, costs the frames from the keyframe before it.

    A keyframe counts only if the container leads to it and the decoder then gives it, intact and first. Where several
    in a row do not, the file is decoded from its beginning. So are AVI with frames out of order, as it has no
    presentation times, and files with a packet without a time.

    Frames after a damaged one are refused until the next intact keyframe: what is predicted from a damaged frame is
    damaged, though the decoder marks only the first. Damage that a codec does not detect (few have checksums) goes
    unnoticed, and what such frames show may depend on where decoding started. In AVI with frames out of order they are
    counted, so that no frame after a damaged one is certain to have the right number.
    """

    def __init__(
        self, file: VideoFile, index: VideoIndex | None = None, on_packet: Callable[[], None] = lambda: None
    ) -> None:
        """`index`: of an earlier reader of the same file. `on_packet` is called with each packet that is read."""
        self._file, self._on_packet = file, on_packet
        self._container, self._stream = open_container(file)
        try:
            self.index = self._read_index() if index is None else index
        except BaseException:
            self._container.close()
            raise
        self.probe, self._times, self._counted = self.index.probe, self.index.times, self.index.counted
        self._converter = VideoReformatter()  # keeps its tables between frames, which a frame's own method does not
        self._numbered: Iterator[tuple[int, Any]] | None = None  # None: a new pass must begin
        self._start: Keyframe | None = None  # of this pass; None: the beginning of the file
        self._next = 0  # the lowest frame number that this pass can still reach
        self._recent: dict[int, np.ndarray] = {}  # framed frames of the last read, as clips may overlap
        self._framing: Framing | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def read(self, indices: np.ndarray, framing: Framing) -> np.ndarray:
        """int64 [n] ascending frame numbers -> uint8 [n, H, W, 3]. Raises DecodeFailure, and as `require_frames`."""
        require_frames(indices, self.probe.frames)
        numbers = np.unique(indices)
        if framing != self._framing:
            self._framing, self._recent = framing, {}
        known = self._recent
        self._recent = {}
        if any(number < self._next and number not in known for number in numbers):
            self._numbered = None
        for number in numbers:
            self._recent[number] = known[number] if number in known else self._framed(int(number), framing)
        return np.stack([self._recent[number] for number in indices])

    def _read_index(self) -> VideoIndex:
        keyframes = KeyframeIndex()
        avi = self._container.format.name == "avi"  # FFmpeg makes up presentation times
        times, last = presentation_times(self._container, self._stream, avi, keyframes, self._on_packet)
        context = self._stream.codec_context
        time_base = float(self._stream.time_base)
        seconds = times.astype(np.float64) * time_base
        probe = VideoProbe(seconds, context.height, context.width, context.codec.canonical_name, last)
        require_complete(self._container, self._stream, probe)
        return VideoIndex(probe, times, time_base, keyframes, counted=avi and keyframes.reordered)

    def _framed(self, number: int, framing: Framing) -> np.ndarray:
        frame = self._decode(number)
        pixels = self._converter.reformat(frame, format="rgb24", interpolation=_TO_RGB).to_ndarray()
        shown, swapped = orient(frame, pixels)
        aspect = float(self._stream.sample_aspect_ratio or 1)
        return frame_into(framing, shown, 1 / aspect if swapped else aspect)

    def _decode(self, number: int) -> Any:
        """The decoded frame of that number, which this pass must not have gone past."""
        nearest = self._keyframe_of(number)
        if self._numbered is None or (nearest and self._number_of(nearest.time) > self._next + MIN_SKIPPED):
            self._begin(nearest)
        try:
            return self._find(number)
        except DecodeFailure:
            if nearest is None or self._start != nearest:
                raise
        self._begin(self.index.keyframes.last_until(nearest.time - 1))  # in case it was not a keyframe after all
        return self._find(number)

    def _find(self, number: int) -> Any:
        """The frame of that number in what remains of this pass."""
        assert self._numbered is not None
        for found, frame in self._numbered:
            self._next = found + 1
            if found > number:
                break
            if found == number:
                if frame is None:
                    raise DecodeFailure("corrupt", f"frame {number} is damaged or depends on a damaged one")
                return frame
        raise DecodeFailure("corrupt", f"frame {number} of {self.probe.frames} cannot be decoded")

    def _keyframe_of(self, number: int) -> Keyframe | None:
        return None if self._counted else self.index.keyframes.last_until(int(self._times[number]))

    def _number_of(self, time: int) -> int:
        return int(np.searchsorted(self._times, time))

    def _begin(self, keyframe: Keyframe | None) -> None:
        """Begins a pass at `keyframe`, at one of those before it, or at the beginning of the file."""
        for _ in range(MAX_BAD_KEYFRAMES):
            if keyframe is None:
                break
            frames = self._frames_from(keyframe)
            if frames is not None:
                self._numbered, self._next, self._start = self._number(frames), self._number_of(keyframe.time), keyframe
                return
            self.index.keyframes.remove(keyframe)
            keyframe = self.index.keyframes.last_until(keyframe.time)
        else:
            self.index.keyframes.clear()
        self._container.close()
        self._container, self._stream = open_container(self._file)
        packets = packets_of(self._container, self._stream, self._on_packet)
        self._numbered, self._next, self._start = self._number(decoded_frames(packets, self._stream)), 0, None

    def _frames_from(self, keyframe: Keyframe) -> Iterator[Any] | None:
        """Frames in order of presentation, beginning with `keyframe`; None if that is not what the decoder gives."""
        packets = packets_from(self._container, self._stream, keyframe, self._on_packet)
        if packets is None:
            return None
        frames = decoded_frames(packets, self._stream, keyframe.time)
        first = next((f for f in frames if f is None or f.pts is None or f.pts >= keyframe.time), None)
        if first is None or first.pts != keyframe.time or not first.key_frame or first.is_corrupt:
            return None
        return chain((first,), frames)

    def _number(self, frames: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        """(frame number, frame) in order of presentation; None in place of a frame that may be damaged."""
        damaged = False
        for count, frame in enumerate(frames):
            if frame is None or frame.is_corrupt:
                damaged = True
            elif frame.key_frame and not self._counted:
                damaged = False
            if frame is None or (frame.pts is None and not self._counted):
                continue
            number = count if self._counted else self._number_of(frame.pts)
            if number < len(self._times) and (self._counted or self._times[number] == frame.pts):
                yield number, None if damaged else frame
