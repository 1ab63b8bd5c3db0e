"""True frames that decoding may show or use as context: the first frames of clips, or the last one, read from one file
for all clips or from the data set that their tokens come from.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.sources.base import ReadRequest
from tokenreel.data.sources.pictures import SUFFIXES, is_animation, picture_size, read_picture
from tokenreel.data.spec import Framing
from tokenreel.data.video.framing import frame_into
from tokenreel.data.video.probe import DecodeFailure, VideoProbe, resample_indices
from tokenreel.errors import DataError

READ_AHEAD = 4  # clips

Reader = Callable[[slice], np.ndarray]  # which clips, by number -> uint8 [clips, n, H, W, 3]


@dataclass(frozen=True)
class ClipPosition:
    """Where a clip begins."""

    video: str  # its id in the data set
    first: int  # tick of the resampled timeline


@dataclass(frozen=True)
class FrameRequest:
    """Which frames of each clip are read, and for which flag."""

    flag: str  # as in --context-video
    location: str
    ticks: np.ndarray  # int64 [n] ascending, at least one, counted from the clip's first frame
    framing: Framing

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.flag} {self.location}: {problem}")

    def error_of(self, video: str, problem: str) -> DataError:
        """Names the video, unless the location is that video."""
        return self.error(problem if Path(self.location).name == video else f"{video}: {problem}")


def clip_positions(cache: TokenCache, rows: np.ndarray) -> list[ClipPosition]:
    """The positions of the rows' clips; for samples, those of the clips that they continue."""
    sources = [cache.plan["videos"][source] for source in cache.column("source", rows).tolist()]
    firsts = cache.column("first_frame", rows).tolist()
    return [
        ClipPosition(source.get("video", source["id"]), source.get("first_frame", first))
        for source, first in zip(sources, firsts, strict=True)
    ]


@contextmanager
def open_true_frames(request: FrameRequest, positions: Sequence[ClipPosition]) -> Iterator[Reader]:
    """Yields a reader of the requested frames of the clips at `positions`, after checking that they all exist.

    A picture, or a file with one video, serves all clips, from its own first frame on; but clips of that very file (by
    its name) keep their positions in it, as in a data set. Raises DataError for a clip whose video is missing or too
    short, and for what is not a readable picture; the reader raises it for frames that do not decode.
    """
    if _is_picture(request.location):
        frames = _picture(request)
        yield lambda clips: np.repeat(frames[None], len(positions[clips]), axis=0)
        return
    with DecodePool(request.location, workers=1) as pool:
        numbers = {entry.id: number for number, entry in enumerate(pool.source.entries)}
        one_file = len(numbers) == 1 and not Path(request.location).is_dir()
        if one_file and not all(position.video in numbers for position in positions):
            positions = [ClipPosition(next(iter(numbers)), 0)] * len(positions)
        probes = _probe(pool, request, [position.video for position in positions], numbers)
        reads = _read_requests(probes, request, positions, numbers)
        yield lambda clips: _read(pool, request, reads[clips])


class FileFrames(NamedTuple):
    frames: np.ndarray  # uint8 [n, H, W, 3]
    frame_rate: float | None  # frames per second of the video itself; None for a picture
    size: tuple[int, int]  # height and width before framing; a video's as stored, before it is turned for display


def frames_of_file(request: FrameRequest) -> FileFrames:
    """The requested frames of the one video or picture at the location, which is opened once. Raises DataError."""
    if Path(request.location).is_dir():
        raise DataError(f"{request.flag} {request.location} is a folder: give one video file or picture")
    if _is_picture(request.location):
        return FileFrames(_picture(request), None, picture_size(Path(request.location)))
    with DecodePool(request.location, workers=1) as pool:
        names = [entry.id for entry in pool.source.entries]
        if len(names) > 1:
            raise request.error(f"it holds {len(names)} videos: give one video file or picture")
        (name,), numbers = names, {names[0]: 0}
        probes = _probe(pool, request, [name], numbers)
        reads = _read_requests(probes, request, [ClipPosition(name, 0)], numbers)
        probe = probes[name]
        return FileFrames(_read(pool, request, reads)[0], probe.frame_rate, (probe.height, probe.width))


def _is_picture(location: str) -> bool:
    path = Path(location)
    return path.suffix.lower() in SUFFIXES and not path.is_dir() and not is_animation(path)


def _picture(request: FrameRequest) -> np.ndarray:
    """uint8 [1, H, W, 3], whichever tick is requested."""
    if len(request.ticks) > 1:
        raise request.error(f"it has 1 frame, but {len(request.ticks)} are needed: give a video, or ask for 1")
    try:
        frame = frame_into(request.framing, read_picture(Path(request.location)))
        return frame[None].copy()  # torch warns of read-only arrays
    except DecodeFailure as failure:
        raise request.error(str(failure)) from failure


def _read_requests(
    probes: Mapping[str, VideoProbe],
    request: FrameRequest,
    positions: Sequence[ClipPosition],
    numbers: Mapping[str, int],
) -> list[ReadRequest]:
    """One per position; equal positions share one."""
    shown = {video: resample_indices(probe, request.framing.frame_rate) for video, probe in probes.items()}
    made = {
        position: ReadRequest(
            numbers[position.video], _source_frames(shown[position.video], position, request), request.framing
        )
        for position in set(positions)
    }
    return [made[position] for position in positions]


def _probe(
    pool: DecodePool, request: FrameRequest, videos: Sequence[str], numbers: Mapping[str, int]
) -> dict[str, VideoProbe]:
    """The probe of each of the videos."""
    videos = list(dict.fromkeys(videos))
    for video in videos:
        if video not in numbers:
            near = difflib.get_close_matches(video, numbers, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise request.error(f"none of its {len(numbers)} videos is {video!r}; {hint}Give the clips' own data set")
    probes = {}
    for video, probe in zip(videos, pool.probe([numbers[video] for video in videos]), strict=True):
        if isinstance(probe, DecodeFailure):
            raise request.error_of(video, str(probe)) from probe
        probes[video] = probe
    return probes


def _source_frames(shown: np.ndarray, position: ClipPosition, request: FrameRequest) -> np.ndarray:
    """int64 [n]: the source frames requested of a clip whose video shows those of `shown` at its ticks."""
    needed = position.first + int(request.ticks[-1]) + 1
    if len(shown) < needed:
        raise request.error_of(
            position.video,
            f"it has {len(shown)} frames, but {needed} are needed: give a longer video, or ask for fewer frames",
        )
    return shown[position.first + request.ticks]


def _read(pool: DecodePool, request: FrameRequest, reads: Sequence[ReadRequest]) -> np.ndarray:
    """uint8 [clips, n, H, W, 3]; each distinct request is read once."""
    frames = {}
    for result in pool.read(dict.fromkeys(reads), ahead=READ_AHEAD):
        if result.frames is None:
            video = pool.source.entries[result.request.video].id
            raise request.error_of(video, str(result.failure)) from result.failure
        frames[result.request] = result.frames
    return np.stack([frames[read] for read in reads])
