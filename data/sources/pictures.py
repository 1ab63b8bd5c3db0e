"""Files of pictures, single or animated, as viewers show them: turned by their EXIF, in 8 bits, without alpha."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tokenreel.data.video.container import MAX_PIXELS, MAX_SECONDS
from tokenreel.data.video.probe import DecodeFailure, VideoProbe
from tokenreel.errors import DataError

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".bmp", ".webp")
ANIMATED_SUFFIXES = (".png", ".apng", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # of the suffixes above; Pillow opens nothing else
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error)  # what Pillow raises for a damaged image
_EXIF_DAMAGE = (*_DAMAGE, KeyError, TypeError, IndexError)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTERS = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))  # these exchange height and width
_LOST = 1 << 62  # beyond any picture
_MIN_SECONDS, _DEFAULT_SECONDS = 0.011, 0.1  # as browsers do, shorter pictures are shown for the default


def read_picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]. Raises DecodeFailure for a damaged picture and for an animation, DataError as `open_picture`."""
    with open_picture(path) as picture:
        if _is_animated(picture):
            raise DecodeFailure("unreadable", f"{path.name} is an animation among single pictures")
        return _shown(path, picture)


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width as shown. Raises DecodeFailure and DataError as `open_picture`."""
    with open_picture(path) as picture:
        quarter = _turn(picture) in _QUARTERS
        return (picture.width, picture.height) if quarter else (picture.height, picture.width)


def is_animation(path: Path) -> bool:
    """Whether a file that can be read is an animated WebP or PNG, from its header alone."""
    try:
        with path.open("rb") as file:
            head = file.read(21)
            if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
                return len(head) == 21 and bool(head[20] & 2)
            file.seek(8)
            while head[:8] == b"\x89PNG\r\n\x1a\n" and len(chunk := file.read(12)) == 12:
                size, kind, number = struct.unpack(">I4sI", chunk)
                if kind in (b"acTL", b"IDAT"):  # an animation is announced before the first picture
                    return kind == b"acTL" and number > 1
                file.seek(size, io.SEEK_CUR)  # with its checksum, of which as many bytes were read
    except OSError:  # reading its pictures reports it
        return False
    return False


class Animation:
    """An animated file, open for reading forward; its times are those of its pictures, first to last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._picture = open_picture(path)
        self._at = 0  # the picture read last
        try:
            self._skipped = int(bool(self._picture.info.get("default_image")))  # shown where nothing moves
            count = getattr(self._picture, "n_frames", 1) - self._skipped
            ends = np.cumsum([self._seconds(number) for number in range(count)])
            if ends[-1] > MAX_SECONDS:
                raise DecodeFailure("bad-timestamps", f"its times span more than {MAX_SECONDS / 3600:g} hours")
        except BaseException:
            self.close()
            raise
        size = self._picture.height, self._picture.width
        times, codec = np.concatenate([[0.0], ends[:-1]]), str(self._picture.format).lower()
        self.probe = VideoProbe(times, *size, codec, last_duration=float(ends[-1] - times[-1]))

    def close(self) -> None:
        self._picture.close()

    def frames(self, numbers: np.ndarray) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] of each. Raises DecodeFailure for a damaged one."""
        for number in numbers:
            self._seek(int(number))
            yield _shown(self._path, self._picture)

    def _seconds(self, number: int) -> float:
        """How long a picture is shown."""
        self._seek(number)
        seconds = float(self._picture.info.get("duration", 0)) / 1000
        return seconds if seconds >= _MIN_SECONDS else _DEFAULT_SECONDS

    def _seek(self, number: int) -> None:
        if number < self._at:  # Pillow itself loses count when it goes back in a PNG, and after damage
            self._picture.close()
            self._picture = open_picture(self._path)
        self._at = _LOST
        try:
            self._picture.seek(number + self._skipped)
            self._picture.load()  # also sets the duration
            self._at = number
        except _DAMAGE as error:
            raise DecodeFailure("corrupt", f"picture {number} of {self._path.name} is damaged ({error})") from error


def open_picture(path: Path) -> Image.Image:
    """The picture, of which only the header is read. Raises DecodeFailure where it has none of a known format and of a
    known size, DataError where the file cannot be opened.
    """
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


def _is_animated(picture: Image.Image) -> bool:
    """Not so a JPEG of several pictures, of which the first is the one to show."""
    return picture.format in ("PNG", "WEBP") and bool(getattr(picture, "is_animated", False))


def _shown(path: Path, picture: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]. Raises DecodeFailure for a damaged picture."""
    try:
        picture.load()
        picture.info.pop("transparency", None)  # Pillow would warn that RGB has none
        rgb = _in_8_bits(picture).convert("RGB")
    except _DAMAGE as error:
        raise DecodeFailure("corrupt", f"{path.name} is damaged ({error})") from error
    turn = None if _is_animated(picture) else _turn(picture)
    return np.asarray(rgb if turn is None else rgb.transpose(turn))


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, which Pillow would cut off at 255, by its upper byte, as Pillow does with colours."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """How the picture is turned before it is shown; viewers ignore an EXIF block that they cannot read."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of other, damaged tags
            return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except _EXIF_DAMAGE:
        return None
