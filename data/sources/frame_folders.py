"""Folders of frames: every folder that contains images is a video, with them in the natural order of their names.

If the first image of a folder is animated, the folder is one of animations instead, and each file a video.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tokenreel.data.controls.frame_table import FrameTables
from tokenreel.data.sources.base import TableFileSource, VideoSource
from tokenreel.data.sources.content import FilePart
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.metadata import describe, metadata_files
from tokenreel.data.sources.pictures import (
    ANIMATED_SUFFIXES,
    SUFFIXES,
    Animation,
    is_animation,
    picture_size,
    read_picture,
)
from tokenreel.data.sources.pixels import PixelSource
from tokenreel.data.video.probe import VideoProbe


class FrameFolders(TableFileSource, PixelSource):
    """Videos in folders of frames and in animations. `videos`: the pictures of each by its path, see `pictures_of`.

    Ids are these paths below `root`, or the location's name for images directly in it.
    """

    def __init__(
        self, location: str, root: Path, videos: dict[Path, list[Path]], metadata: list[Path], frame_rate: float | None
    ) -> None:
        named_from = root.parent if root in videos else root
        entries, self.inventory = describe(named_from, videos, metadata)
        super().__init__(location, entries, frame_rate)
        self._tables = FrameTables(root, named_from)
        self._paths = [named_from / entry.id for entry in self.entries]
        self._pictures = [videos[path] for path in self._paths]
        self._open: tuple[int, Animation] | None = None

    def probe(self, index: int) -> VideoProbe:
        animation = self._animation(index)
        return super().probe(index) if animation is None else animation.probe

    def parts(self, index: int) -> list[FilePart]:
        return [FilePart(picture) for picture in self._pictures[index]]

    def _shape(self, index: int) -> tuple[int, int, int]:
        pictures = self._pictures[index]
        return len(pictures), *picture_size(pictures[0])

    def _frames(self, index: int, numbers: np.ndarray) -> Iterator[np.ndarray]:
        animation = self._animation(index)
        if animation is not None:
            return animation.frames(numbers)
        return (read_picture(self._pictures[index][number]) for number in numbers)

    def _animation(self, index: int) -> Animation | None:
        """The animation that a video is; None for a folder of frames."""
        path = self._paths[index]
        if self._pictures[index] != [path]:
            return None
        if self._open is None or self._open[0] != index:
            if self._open is not None:
                self._open[1].close()
                self._open = None
            self._open = index, Animation(path)
        return self._open[1]


def pictures_of(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """The pictures of each video, in order: of a folder, by the folder's path; of an animation itself, by its own."""
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    videos: dict[Path, list[Path]] = {}
    for folder, pictures in folders.items():
        pictures.sort(key=_natural)
        first = pictures[0]
        animated = first.suffix.lower() in ANIMATED_SUFFIXES and is_animation(first)
        videos |= {picture: [picture] for picture in pictures} if animated else {folder: pictures}
    return videos


def open_frame_folders(location: Location) -> VideoSource | None:
    """A folder that contains images and no video, or one animation."""
    file = location.file(*ANIMATED_SUFFIXES)
    if file is not None:
        return FrameFolders(location.text, file.parent, {file: [file]}, [], None) if is_animation(file) else None
    pictures, metadata = location.files_below(*SUFFIXES), metadata_files(location)
    if not pictures:
        return None
    videos = pictures_of(pictures)
    has_folders = any(own != [path] for path, own in videos.items())
    rate = location.frame_rate() if has_folders else None  # animations state their own times
    source = FrameFolders(location.text, location.path, videos, metadata, rate)
    source.inventory = source.inventory.plus(location.inventory([*pictures, *metadata]))
    return source


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]
