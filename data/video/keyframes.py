"""Where decoding can start inside a video: its keyframes, and how a container is moved to one of them."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import av
import numpy as np


@dataclass(frozen=True)
class Keyframe:
    """A keyframe by what the container states about its packet; times are in the stream's time base."""

    time: int  # of presentation
    decode_time: int  # at most `time`
    position: int  # byte in the file


class KeyframeIndex:
    """The keyframes of a stream from which each frame that is shown later can be decoded.

    Such a keyframe is shown after every frame whose packet precedes its own. Frames whose packets follow it but which
    are shown before it may depend on earlier ones (an open group of pictures); they belong to the keyframe before.
    """

    def __init__(self) -> None:
        self._times, self._decode_times, self._positions = array("q"), array("q"), array("q")
        self._latest: int | None = None  # presentation time among the packets so far
        self._complete = True  # every packet has a presentation time
        self.reordered = False  # frames are stored in another order than they are shown in

    @classmethod
    def of(cls, columns: np.ndarray) -> Self:
        """The index whose `columns` these are."""
        index = cls()
        for column, values in zip((index._times, index._decode_times, index._positions), columns, strict=True):
            column.frombytes(values.astype(np.int64).tobytes())
        return index

    @property
    def columns(self) -> np.ndarray:
        """int64 [3, n]: the fields of each `Keyframe`."""
        return np.array([self._times, self._decode_times, self._positions], dtype=np.int64)

    def add(self, packet: Any) -> None:
        """Takes note of the next packet, in the order of the file."""
        self.reordered |= packet.pts != packet.dts
        if packet.pts is None:
            self._complete = False
            self.clear()
        if not self._complete:
            return
        if packet.is_keyframe and not packet.is_discard and (self._latest is None or packet.pts > self._latest):
            self._times.append(packet.pts)
            self._decode_times.append(packet.pts if packet.dts is None else packet.dts)
            self._positions.append(-1 if packet.pos is None else packet.pos)
        self._latest = packet.pts if self._latest is None else max(self._latest, packet.pts)

    def last_until(self, time: int) -> Keyframe | None:
        """The last keyframe that is shown at `time` or before; None where decoding has to start with the file."""
        found = bisect_right(self._times, time) - 1
        return None if found < 0 else Keyframe(self._times[found], self._decode_times[found], self._positions[found])

    def remove(self, keyframe: Keyframe) -> None:
        """Forgets a keyframe, from which decoding does not start after all."""
        found = bisect_right(self._times, keyframe.time) - 1
        for column in (self._times, self._decode_times, self._positions):
            del column[found]

    def clear(self) -> None:
        """Forgets all keyframes."""
        for column in (self._times, self._decode_times, self._positions):
            del column[:]


def packets_from(
    container: Any, stream: Any, keyframe: Keyframe, on_packet: Callable[[], None]
) -> Iterator[Any] | None:
    """Moves `container` to `keyframe` -> the packets from there to the end; None where it does not get there.

    The stream's decoder is flushed.
    """
    # FFmpeg looks for a time in MPEG-TS by reading packets, and may stop after the keyframe.
    by_byte = container.format.name == "mpegts"
    # MP4 is searched by decode time, Matroska by presentation time; the later one needs no packets to be skipped.
    targets = [keyframe.position] if by_byte else sorted({keyframe.time, keyframe.decode_time}, reverse=True)
    for target in targets:
        try:
            container.seek(target, stream=None if by_byte else stream, unsupported_byte_offset=by_byte)
            packets = _reported(container.demux(stream), on_packet)
            first = next((packet for packet in packets if packet.pts is None or packet.pts >= keyframe.time), None)
        except av.FFmpegError:
            continue
        if first is not None and first.pts == keyframe.time and first.is_keyframe:
            return chain((first,), (packet for packet in packets if packet.size))
    return None


def _reported(packets: Iterator[Any], on_packet: Callable[[], None]) -> Iterator[Any]:
    for packet in packets:
        on_packet()
        yield packet
