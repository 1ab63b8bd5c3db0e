"""Containers: opened within limits, their video stream, its packets and times, and frames as the decoder gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition

from tokenreel.data.video.keyframes import KeyframeIndex
from tokenreel.data.video.probe import DecodeFailure, VideoProbe
from tokenreel.errors import DataError

av.logging.set_level(av.logging.PANIC)  # FFmpeg logs broken files; our errors name the file and the reason

VideoFile = Path | BinaryIO
MAX_PIXELS = 4096 * 4096  # of one frame
MAX_SECONDS = 24 * 3600.0  # of one video; a forged timestamp would otherwise make an endless timeline
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".gif"),
    *(".mpg", ".mpeg", ".vob", ".flv", ".f4v", ".wmv", ".asf"),
)  # of the containers below
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,gif,mpeg,flv,asf"  # FFmpeg's names; no playlists, no patterns
)
_END = object()
_CODECS = frozenset(
    (
        *("h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "gif", "ffv1"),
        *("flv1", "h263", "wmv1", "wmv2", "msmpeg4v3"),
    )
)


def open_container(file: VideoFile) -> tuple[Any, Any]:
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


def packets_of(container: Any, stream: Any, on_packet: Callable[[], None]) -> Iterator[Any]:
    """Packets from the first keyframe on; those before it, in a recording cut anywhere, cannot be decoded."""
    started = False
    for packet in container.demux(stream):
        on_packet()
        started = started or packet.is_keyframe
        if started and packet.size:
            yield packet


def presentation_times(
    container: Any, stream: Any, counted: bool, keyframes: KeyframeIndex, on_packet: Callable[[], None]
) -> tuple[np.ndarray, float | None]:
    """int64 [n], ascending, in the stream's time base: the presentation time of each frame; and the seconds that the
    last one is shown, None where the container does not state it. Fills `keyframes`.
    """
    durations: dict[int, int] = {}  # by time
    packets, untimed, repeated, first, decoded_at = 0, 0, 0, None, None
    try:
        for packet in packets_of(container, stream, on_packet):
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


def require_complete(container: Any, stream: Any, probe: VideoProbe) -> None:
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


def decoded_frames(packets: Iterator[Any], stream: Any, since: int | None = None) -> Iterator[Any]:
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
