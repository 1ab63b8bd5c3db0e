"""True frames that a decoder may look at: first frames of clips, or the last one, out of one file for all of them or
out of the data set that their tokens come from.

It knows where clips lie in their videos, no tokenizer and no codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.sources.base import ReadRequest
from tokenreel.data.sources.frame_folders import SUFFIXES, FrameFolders
from tokenreel.data.spec import Framing
from tokenreel.data.video.reader import DecodeFailure, shown_frames
from tokenreel.errors import DataError

READ_AHEAD = 4  # clips

Reader = Callable[[slice], np.ndarray]  # which clips, by number -> uint8 [clips, n, H, W, 3]


@dataclass(frozen=True)
class Place:
    """Where a clip begins: its video by the id that it has in its data set, and a tick of its resampled timeline."""

    video: str
    first: int


@dataclass(frozen=True)
class Wanted:
    """Which frames, and who asks."""

    flag: str  # of the command line, as --context-video
    location: str
    ticks: np.ndarray  # int64 [n] ascending, at least one: from a clip's beginning on
    framing: Framing

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.flag} {self.location}: {problem}")

    def error_of(self, video: str, problem: str) -> DataError:
        """Says which video of several is meant."""
        return self.error(problem if Path(self.location).name == video else f"{video}: {problem}")


def places_of(cache: TokenCache, rows: np.ndarray) -> list[Place]:
    """Of the rows' clips; of samples, where the clip lies that each one goes on from."""
    sources = [cache.plan["videos"][source] for source in cache.column("source")[rows].tolist()]
    firsts = cache.column("first_frame")[rows].tolist()
    return [
        Place(source.get("video", source["id"]), source.get("first_frame", first))
        for source, first in zip(sources, firsts, strict=True)
    ]


@contextmanager
def open_known(wanted: Wanted, places: Sequence[Place]) -> Iterator[Reader]:
    """What reads the wanted frames of the clips at `places`, which are found and counted at once.

    A picture, or a file with one video, stands for all of them, from its own beginning on; but clips of that very file
    (by its name) keep their own places, as in a data set. Raises DataError for a clip whose video is not there or too
    short, for what is no picture, and in reading for frames that do not decode.
    """
    if _is_picture(wanted.location):
        frames = _picture(wanted)
        yield lambda clips: np.repeat(frames[None], len(places[clips]), axis=0)
        return
    with DecodePool(wanted.location, workers=1) as pool:
        numbers = {entry.id: number for number, entry in enumerate(pool.source.entries)}
        alone = len(numbers) == 1 and not Path(wanted.location).is_dir()
        if alone and not all(place.video in numbers for place in places):
            places = [Place(next(iter(numbers)), 0)] * len(places)
        requests = _requests(pool, wanted, places, numbers)
        yield lambda clips: _read(pool, wanted, requests[clips])


def frames_of_file(wanted: Wanted) -> np.ndarray:
    """uint8 [n, H, W, 3]: the wanted frames of the one video or picture at the location. Raises DataError."""
    if Path(wanted.location).is_dir():
        raise DataError(f"{wanted.flag} {wanted.location} is a folder: give one video file or picture")
    if _is_picture(wanted.location):
        return _picture(wanted)
    with DecodePool(wanted.location, workers=1) as pool:
        names = [entry.id for entry in pool.source.entries]
        if len(names) > 1:
            raise wanted.error(f"it holds {len(names)} videos: give one video file or picture")
        return _read(pool, wanted, _requests(pool, wanted, [Place(names[0], 0)], {names[0]: 0}))[0]


def _is_picture(location: str) -> bool:
    return Path(location).suffix.lower() in SUFFIXES and not Path(location).is_dir()


def _picture(wanted: Wanted) -> np.ndarray:
    """uint8 [1, H, W, 3]; whatever tick is wanted, it shows it."""
    if len(wanted.ticks) > 1:
        raise wanted.error(f"it has 1 frame, needed are {len(wanted.ticks)}: give a video, or ask for 1")
    path = Path(wanted.location)
    try:
        picture = FrameFolders(str(path), path.parent, [path], [], None)
        return picture.read(0, np.zeros(1, np.int64), wanted.framing).copy()  # torch warns of what cannot be written
    except DecodeFailure as failure:
        raise wanted.error(str(failure)) from failure


def _requests(
    pool: DecodePool, wanted: Wanted, places: Sequence[Place], numbers: Mapping[str, int]
) -> list[ReadRequest]:
    """One for each place, the same one for the same place."""
    shown = _timelines(pool, wanted, list(dict.fromkeys(place.video for place in places)), numbers)
    made = {
        place: ReadRequest(numbers[place.video], _indices(shown[place.video], place, wanted), wanted.framing)
        for place in set(places)
    }
    return [made[place] for place in places]


def _timelines(
    pool: DecodePool, wanted: Wanted, videos: Sequence[str], numbers: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """int64 [m] by video: the source frame at each tick."""
    for video in videos:
        if video not in numbers:
            near = difflib.get_close_matches(video, numbers, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise wanted.error(f"none of its {len(numbers)} videos is {video!r}; {hint}Give the clips' own data")
    shown = {}
    for video, probe in zip(videos, pool.probe([numbers[video] for video in videos]), strict=True):
        if isinstance(probe, DecodeFailure):
            raise wanted.error_of(video, str(probe)) from probe
        shown[video] = shown_frames(probe.frame_times, wanted.framing.frame_rate)
    return shown


def _indices(shown: np.ndarray, place: Place, wanted: Wanted) -> np.ndarray:
    """int64 [n]: the source frames that are wanted of a clip, whose video's timeline shows those of `shown`."""
    needed = place.first + int(wanted.ticks[-1]) + 1
    if len(shown) < needed:
        raise wanted.error_of(
            place.video,
            f"it has {len(shown)} frames, needed are {needed}: give a longer video, or ask for fewer frames",
        )
    return shown[place.first + wanted.ticks]


def _read(pool: DecodePool, wanted: Wanted, requests: Sequence[ReadRequest]) -> np.ndarray:
    once = dict.fromkeys(requests)
    frames = {}
    for result in pool.read(once, ahead=READ_AHEAD):
        if result.frames is None:
            video = pool.source.entries[result.request.video].id
            raise wanted.error_of(video, str(result.failure)) from result.failure
        frames[result.request] = result.frames
    return np.stack([frames[request] for request in requests])
