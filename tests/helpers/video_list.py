"""A source of a user: a .txt file with the path of a video in each line, relative to the file.

It is a separate module, as a registered source must be, because worker processes import it.
"""

from __future__ import annotations

from pathlib import Path

from tokenreel.data.sources.base import VideoEntry, VideoSource
from tokenreel.data.sources.encoded import EncodedSource
from tokenreel.data.sources.location import Location
from tokenreel.errors import DataError


class VideoList(EncodedSource):
    """A source whose ids are the lines of a file."""

    def __init__(self, location: str, path: Path) -> None:
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as text: {error}") from error
        self._root = path.parent
        for number, line in enumerate(lines, start=1):
            if not (self._root / line).is_file():
                raise DataError(f"{path}, line {number}: no such video: {line[:80]!r}")
        super().__init__(location, map(VideoEntry, lines))

    def _file(self, index: int) -> Path:
        return self._root / self.entries[index].id


def open_video_list(location: Location) -> VideoSource | None:
    """Opens a .txt file; None for other locations."""
    path = location.file(".txt")
    return None if path is None else VideoList(location.text, path)
