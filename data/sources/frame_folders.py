"""Folders of frames: every folder that contains images is a video, with them in the natural order of their names."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tokenreel.data.controls.frame_table import FrameTables
from tokenreel.data.sources.base import TableFileSource, VideoSource
from tokenreel.data.sources.content import FilePart
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.metadata import describe, metadata_files
from tokenreel.data.sources.pixels import PixelSource
from tokenreel.data.video.reader import MAX_PIXELS, DecodeFailure
from tokenreel.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # of the suffixes above; Pillow opens nothing else
_DAMAGE = (OSError, SyntaxError, ValueError)  # what Pillow raises for a damaged image


class FrameFolders(TableFileSource, PixelSource):
    """Videos in folders of frames. Ids are the folders' paths, or the location's name for images directly in it."""

    def __init__(
        self, location: str, root: Path, pictures: list[Path], metadata: list[Path], frame_rate: float | None
    ) -> None:
        folders: dict[Path, list[Path]] = {}
        for picture in pictures:
            folders.setdefault(picture.parent, []).append(picture)
        named_from = root.parent if root in folders else root
        super().__init__(location, describe(named_from, list(folders), metadata), frame_rate)
        self._tables = FrameTables(root, named_from)
        self._pictures = [sorted(folders[named_from / entry.id], key=_natural) for entry in self.entries]

    def parts(self, index: int) -> list[FilePart]:
        return [FilePart(picture) for picture in self._pictures[index]]

    def _shape(self, index: int) -> tuple[int, int, int]:
        pictures = self._pictures[index]
        with _opened(pictures[0]) as picture:
            return len(pictures), picture.height, picture.width

    def _frames(self, index: int, numbers: np.ndarray) -> Iterator[np.ndarray]:
        for number in numbers:
            path = self._pictures[index][number]
            with _opened(path) as picture:
                try:
                    yield np.asarray(picture.convert("RGB"))
                except _DAMAGE as error:
                    raise DecodeFailure("corrupt", f"{path.name} is damaged ({error})") from error


def open_frame_folders(location: Location) -> VideoSource | None:
    """A folder that contains images and no video."""
    pictures = location.files_below(*SUFFIXES)
    if not pictures:
        return None
    return FrameFolders(location.text, location.path, pictures, metadata_files(location), location.frame_rate())


def _opened(path: Path) -> Image.Image:
    try:
        data = io.BytesIO(path.read_bytes())
    except OSError as error:  # says nothing about the image itself
        raise DataError(f"{path}: {error.strerror}") from error
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            picture = Image.open(data, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeFailure("too-large", f"{path.name}: {error}") from error
    except UnidentifiedImageError as error:  # its message names the buffer in memory
        kinds = ", ".join(_FORMATS)
        raise DecodeFailure("unreadable", f"{path.name} is not a readable image (known: {kinds})") from error
    except _DAMAGE as error:
        raise DecodeFailure("unreadable", f"{path.name} is not a readable image ({error})") from error
    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width}x{picture.height}"
        picture.close()
        raise DecodeFailure("too-large", f"{path.name} has {size} pixels; a frame has at most {MAX_PIXELS}")
    return picture


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]
