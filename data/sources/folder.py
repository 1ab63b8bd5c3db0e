"""A folder of video files, in class folders or with metadata, or a single video file."""

from __future__ import annotations

from pathlib import Path

from tokenreel.data.controls.frame_table import FrameTables
from tokenreel.data.sources.base import TableFileSource, VideoEntry, VideoSource
from tokenreel.data.sources.content import FilePart
from tokenreel.data.sources.encoded import EncodedSource
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.metadata import describe, metadata_files
from tokenreel.data.tabletop.scene import CONFIG_FILE
from tokenreel.data.video.container import SUFFIXES
from tokenreel.data.video.recognize import begins_as_video


class VideoFolder(TableFileSource, EncodedSource):
    """Videos below a folder. Ids are paths relative to it."""

    def __init__(self, location: str, root: Path, videos: list[Path], metadata: list[Path]) -> None:
        entries, self.inventory = describe(root, {video: [video] for video in videos}, metadata)
        super().__init__(location, entries)
        self._root = root
        self._tables = FrameTables(root)

    def _file(self, index: int) -> Path:
        return self._root / self.entries[index].id

    def parts(self, index: int) -> list[FilePart]:
        return [FilePart(self._file(index))]


class SingleVideo(EncodedSource):
    """One video file. Its id is its name."""

    def __init__(self, location: str, path: Path) -> None:
        super().__init__(location, [VideoEntry(path.name)])
        self._path = path

    def _file(self, index: int) -> Path:
        return self._path

    def parts(self, index: int) -> list[FilePart]:
        return [FilePart(self._path)]


def open_videos(location: Location) -> VideoSource | None:
    """A folder with videos in it (images next to them count as thumbnails), or one video file."""
    if location.path.is_file():
        return SingleVideo(location.text, location.path) if _is_video(location.path) else None
    videos = list(filter(_is_video, location.files))
    if not videos:
        return None
    metadata = metadata_files(location)
    source = VideoFolder(location.text, location.path, videos, metadata)
    source.inventory = source.inventory.plus(location.inventory([*videos, *metadata, location.path / CONFIG_FILE]))
    return source


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or begins_as_video(path)
