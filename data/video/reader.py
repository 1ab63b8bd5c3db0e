"""Reads video files: what a container states about its frames, and frames by number, decoded from a keyframe before.

A frame's number is its rank among the presentation times of the container's packets, so it is well defined
at a constant or variable rate, with frames stored out of order, and where the container states no frame count. Every
frame equals the one that decoding from the beginning gives. Frames are what a player shows: turned, mirrored and with
the pixel aspect ratio that the file states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, get_args

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from tokenreel.data.spec import Framing
from tokenreel.data.video.display import orient
from tokenreel.data.video.framing import frame_into
from tokenreel.data.video.keyframes import Keyframe, KeyframeIndex, packets_from
from tokenreel.errors import DataError

av.logging.set_level(av.logging.PANIC)  # FFmpeg logs broken files; our errors name the file and the reason

VideoFile = Path | BinaryIO
Reason = Literal[
    "unreadable", "no-video", "no-sound", "unsupported-codec", "too-large", "too-short", "truncated", "corrupt",
    "bad-timestamps",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)

MAX_PIXELS = 4096 * 4096  # of one frame
MAX_SECONDS = 24 * 3600.0  # of one video; a forged timestamp would otherwise make an endless timeline
TIME_ROUNDING = 1.5e-3  # seconds; Matroska rounds times to 1 ms, so a difference of two may be up to 1 ms too small
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".gif"),
    *(".mpg", ".mpeg", ".vob", ".flv", ".f4v", ".wmv", ".asf"),
)  # of the containers below
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,gif,mpeg,flv,asf"  # FFmpeg's names; no playlists, no patterns
)
MIN_SKIPPED = 16  # frames; decoding fewer costs less than seeking
MAX_BAD_KEYFRAMES = 3  # in a row, before a file is decoded from its beginning only
_END = object()
_CODECS = frozenset(
    (
        *("h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "gif", "ffv1"),
        *("flv1", "h263", "wmv1", "wmv2", "msmpeg4v3"),
    )
)

# The default is four times as fast but 2 levels too dark and, on Tabletop, 4 dB further from what was encoded.
_TO_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class DecodeFailure(DataError):
    """A video, or a part of it, that cannot be decoded correctly; retrying gives the same result."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, eq=False)
class VideoProbe:
    """What a source states about a video before anything is decoded. Frames may still fail to decode."""

    frame_times: np.ndarray  # float64 [n] seconds, in order of presentation; all NaN where frames have no times
    height: int  # pixels as stored, before a rotation
    width: int
    codec: str  # FFmpeg's name, or "raw" for pixels
    last_duration: float | None = None  # seconds that the last frame is shown; None: as long as the frames' mean

    @property
    def frames(self) -> int:
        return len(self.frame_times)

    @property
    def frame_rate(self) -> float | None:
        """The mean rate in frames per second; None for a single frame and for frames without times."""
        if len(self.frame_times) < 2 or np.isnan(self.frame_times[0]):
            return None
        return float((len(self.frame_times) - 1) / (self.frame_times[-1] - self.frame_times[0]))


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """What reading all packets of a file gives; with it, the same file is opened again without reading them."""

    probe: VideoProbe
    times: np.ndarray  # int64 [n] ascending presentation times, in the stream's time base
    keyframes: KeyframeIndex


def resample_indices(probe: VideoProbe, frame_rate: float | None) -> np.ndarray:
    """int64 [m]: the number of the frame shown at each tick of a timeline at `frame_rate`.

    Ticks run from the first frame to the end of the last one; a tick shows the last frame that is not after it, as
    FFmpeg's `fps=RATE:round=up`. None keeps every frame once. Raises DataError where the frames have no times to
    resample by.
    """
    if frame_rate is None:
        return np.arange(probe.frames, dtype=np.int64)
    if np.isnan(probe.frame_times).any():
        raise DataError(
            f"frame_rate (={frame_rate:g}): these frames have no times to resample by; omit frame_rate, or state their "
            "rate by appending ?fps=RATE to the data's path"
        )
    since_first = probe.frame_times - probe.frame_times[0]
    slack = min(TIME_ROUNDING, 0.25 / frame_rate)
    duration = probe.last_duration
    if duration is None:
        duration = 1 / probe.frame_rate if probe.frame_rate else 0.0
    to_last = int((since_first[-1] + slack) * frame_rate) + 1
    to_end = math.ceil((since_first[-1] + duration - slack) * frame_rate)
    ticks = np.arange(max(to_last, to_end)) / frame_rate
    return np.searchsorted(since_first, ticks + slack, side="right").astype(np.int64) - 1


def require_frames(indices: np.ndarray, frames: int) -> None:
    """Raises ValueError unless `indices` are ascending frame numbers, at least one, and DecodeFailure where a video of
    `frames` frames is too short for them.
    """
    if len(indices) == 0 or indices[0] < 0 or np.any(np.diff(indices) < 0):
        raise ValueError(f"indices (={indices}) must be ascending frame numbers, at least one of them")
    if indices[-1] >= frames:
        raise DecodeFailure("too-short", f"frame {indices[-1]} was requested, but the video has {frames} frames")


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
    in a row do not, the file is decoded from its beginning. So are AVI, which has no presentation times, and files with
    a packet without a time.

    Frames after a damaged one are refused until the next intact keyframe: what is predicted from a damaged frame is
    damaged, though the decoder marks only the first. Damage that a codec does not detect (few have checksums) goes
    unnoticed, and what such frames show may depend on where decoding started. In AVI, which has no presentation times,
    frames are counted, so that no frame after a damaged one is certain to have the right number.
    """

    def __init__(
        self, file: VideoFile, index: VideoIndex | None = None, on_packet: Callable[[], None] = lambda: None
    ) -> None:
        """`index`: of an earlier reader of the same file. `on_packet` is called with each packet that is read."""
        self._file, self._on_packet = file, on_packet
        self._container, self._stream = _open(file)
        try:
            self._counted = self._container.format.name == "avi"
            self.index = self._read_index() if index is None else index
        except BaseException:
            self._container.close()
            raise
        self.probe, self._times = self.index.probe, self.index.times
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
        times, last = _presentation_times(self._container, self._stream, self._counted, keyframes, self._on_packet)
        context = self._stream.codec_context
        seconds = times.astype(np.float64) * float(self._stream.time_base)
        probe = VideoProbe(seconds, context.height, context.width, context.codec.canonical_name, last)
        _require_complete(self._container, self._stream, probe)
        return VideoIndex(probe, times, keyframes)

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
        self._container, self._stream = _open(self._file)
        packets = _packets(self._container, self._stream, self._on_packet)
        self._numbered, self._next, self._start = self._number(_decoded(packets, self._stream)), 0, None

    def _frames_from(self, keyframe: Keyframe) -> Iterator[Any] | None:
        """Frames in order of presentation, beginning with `keyframe`; None if that is not what the decoder gives."""
        packets = packets_from(self._container, self._stream, keyframe, self._on_packet)
        if packets is None:
            return None
        frames = _decoded(packets, self._stream, keyframe.time)
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


def _open(file: VideoFile) -> tuple[Any, Any]:
    """The container and its video stream, checked against the limits."""
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    try:
        container = av.open(av_input(file), container_options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        empty = isinstance(file, Path) and not file.stat().st_size
        problem = "the file is empty" if empty else f"not a complete video container of a known kind ({error.strerror})"
        raise DecodeFailure("unreadable", problem) from error
    try:
        return container, _video_stream(container)
    except BaseException:
        container.close()
        raise


def av_input(file: Path | BinaryIO) -> str | BinaryIO:
    """The argument for av.open: a file at its beginning, and never a URL or a device.

    Raises DataError where the file is missing or may not be read, which says nothing about its content.
    """
    if not isinstance(file, Path):
        file.seek(0)
        return file
    try:
        file.open("rb").close()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    return f"file:{file.absolute()}"


def _video_stream(container: Any) -> Any:
    """The stream that ffmpeg takes: marked as default, then the largest, then the first; never a cover picture."""
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    stream = max(videos, key=_preference, default=None)
    if stream is None:
        raise DecodeFailure("no-video", "the file has no video stream")
    context = stream.codec_context
    if context is None or context.codec.canonical_name not in _CODECS:
        name = "unknown" if context is None else context.codec.canonical_name
        raise DecodeFailure("unsupported-codec", f"codec {name}; known: {', '.join(sorted(_CODECS))}")
    if context.width < 1 or context.height < 1:
        raise DecodeFailure("unreadable", "the frame size cannot be read")
    if context.width * context.height > MAX_PIXELS:
        raise DecodeFailure("too-large", f"{context.width}x{context.height} pixels; a frame has at most {MAX_PIXELS}")
    # A stream may change its size midway; and the decoder must report damage, not conceal it.
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "crccheck+explode"}
    context.thread_count = 1  # with FFmpeg's frame threads the mark of a damaged frame is lost
    return stream


def _preference(stream: Any) -> tuple[bool, int]:
    context = stream.codec_context  # None for an unknown codec
    return bool(stream.disposition & Disposition.default), context.width * context.height if context else 0


def _packets(container: Any, stream: Any, on_packet: Callable[[], None]) -> Iterator[Any]:
    """Packets from the first keyframe on; those before it, in a recording cut anywhere, cannot be decoded."""
    started = False
    for packet in container.demux(stream):
        on_packet()
        started = started or packet.is_keyframe
        if started and packet.size:
            yield packet


def _presentation_times(
    container: Any, stream: Any, counted: bool, keyframes: KeyframeIndex, on_packet: Callable[[], None]
) -> tuple[np.ndarray, float | None]:
    """int64 [n], ascending, in the stream's time base: the presentation time of each frame; and the seconds that the
    last one is shown, None where the container does not state it. Fills `keyframes`.
    """
    durations: dict[int, int] = {}  # by time
    packets, untimed, repeated, first, decoded_at = 0, 0, 0, None, None
    try:
        for packet in _packets(container, stream, on_packet):
            packets += 1
            keyframes.add(packet)
            time = packet.dts if counted else packet.pts
            first = time if first is None else first
            if packet.is_keyframe and None not in (packet.dts, decoded_at) and packet.dts < decoded_at:
                raise DecodeFailure("bad-timestamps", "its times run backwards, as in files that were joined by bytes")
            decoded_at = decoded_at if packet.dts is None else packet.dts
            if packet.is_discard or _is_invisible(packet, stream):
                continue
            if time is None:
                untimed += 1
            elif time >= first:  # earlier ones depend on missing frames
                repeated += time in durations
                durations[time] = packet.duration or 0
    except av.FFmpegError as error:
        raise DecodeFailure("unreadable", f"its packets cannot be read to the end ({error.strerror})") from error
    if packets == 0:
        raise DecodeFailure("unreadable", "the video has no keyframe")
    if untimed or repeated:
        problem = f"{untimed} have no time and {repeated} the time of another"
        raise DecodeFailure("bad-timestamps", f"of its {packets} frames, {problem}")
    if not durations:
        raise DecodeFailure("unreadable", f"none of its {packets} frames is to be shown")
    times = np.array(sorted(durations), dtype=np.int64)
    last = max(durations[int(times[-1])], 0) * float(stream.time_base)
    if (times[-1] - times[0]) * float(stream.time_base) + last > MAX_SECONDS:
        raise DecodeFailure("bad-timestamps", f"its times span more than {MAX_SECONDS / 3600:g} hours")
    return times, last or None


def _is_invisible(packet: Any, stream: Any) -> bool:
    """Whether a packet holds a reference only, with the time of another packet (RFC 6386, section 9.1: show_frame)."""
    return stream.codec_context.codec.canonical_name == "vp8" and not bytes(packet)[0] & 0x10


def _require_complete(container: Any, stream: Any, probe: VideoProbe) -> None:
    """Raises DecodeFailure where a video is shorter than its container states. MPEG-TS and GIF state no length."""
    name = container.format.name
    if name.startswith("mov"):
        end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
        if end > container.size:
            raise DecodeFailure("truncated", f"its index reaches to byte {end}, the file has {container.size}")
    stated = 0.0
    if name == "avi" and stream.average_rate:
        stated = stream.frames / float(stream.average_rate)
    elif name.startswith("matroska"):
        stated = _clock_seconds(stream.metadata.get("DURATION", ""))
    frame = 1 / (probe.frame_rate or float(stream.average_rate or 1))
    last = max(frame, probe.last_duration or 0.0)
    actual = float(probe.frame_times[-1] - min(probe.frame_times[0], 0.0)) + last
    if stated - actual > max(2 * frame, 0.02 * stated):  # intact files round times and drop a frame or two
        raise DecodeFailure("truncated", f"the container states {stated:.2f} s, the video has {actual:.2f} s")


def _clock_seconds(clock: str) -> float:
    """'00:00:05.040000000' -> 5.04; 0 for anything else."""
    parts = clock.strip("\0 ").split(":")
    if len(parts) != 3 or not all(part.replace(".", "", 1).isdigit() for part in parts):
        return 0.0
    return float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2])


def _decoded(packets: Iterator[Any], stream: Any, since: int | None = None) -> Iterator[Any]:
    """Frames in order of presentation; None where the decoder or the container reported an error.

    Errors in packets that are shown before `since` are ignored: decoding started there, and those depend on others.
    """
    packets = chain(packets, (None,))  # None: flush the decoder
    while True:
        packet: Any = None
        try:
            packet = next(packets, _END)
            if packet is _END:
                return
            yield from stream.codec_context.decode(packet)
        except av.FFmpegError:  # after a container error the generator of packets has ended
            if packet is None or since is None or packet.pts is None or packet.pts >= since:
                yield None
