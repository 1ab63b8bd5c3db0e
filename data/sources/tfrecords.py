"""BAIR robot pushing as it is distributed: TFRecords of tf.Example with raw 64x64 images, read without TensorFlow.

Finn et al., Self-Supervised Visual Planning with Temporal Skip Connections (2017). Frames are of the camera `aux1`,
the view that video prediction papers report; `train` and `test` folders become splits. Checksums are verified.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import google_crc32c
import numpy as np

from tokenreel.data.sources.base import VideoEntry, VideoSource
from tokenreel.data.sources.content import FilePart
from tokenreel.data.sources.folder_splits import OUTSIDE, places_by_container
from tokenreel.data.sources.inventory import Inventory
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.pixels import PixelSource
from tokenreel.data.sources.same_files import taken_once
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError

SIDE = 64  # pixels
SUFFIXES = (".tfrecord", ".tfrecords")
_KEY = "{}/image_aux1/encoded"
_LENGTH = struct.Struct("<QI")  # bytes of a record, checksum of these eight bytes
_CHECKSUM = struct.Struct("<I")
_GZIP = b"\x1f\x8b\x08"
_MASK_DELTA = 0xA282EAD8  # TensorFlow, tsl/lib/hash/crc32c.h


class BairRecords(PixelSource):
    """Videos in TFRecords, one per record. Ids are path/number."""

    def __init__(self, location: str, root: Path, files: list[Path], frame_rate: float | None) -> None:
        self._records: dict[str, tuple[Path, int, int]] = {}  # id -> file, offset and size of the record
        entries = []
        named = {file.relative_to(root).as_posix(): file for file in files}
        found = places_by_container({name: file.stem for name, file in named.items()})
        stated = (VideoEntry(name, split=place.split) for name, place in found.items() if place is not None)
        taken, others = taken_once(stated, {name: [file] for name, file in named.items()})
        self.inventory = others.plus(Inventory.of({OUTSIDE: (name for name, place in found.items() if place is None)}))
        for entry in taken:
            for number, (offset, size) in enumerate(_index(named[entry.id])):
                name = f"{PurePosixPath(entry.id).with_suffix('')}/{number:04d}"
                self._records[name] = named[entry.id], offset, size
                entries.append(VideoEntry(name, split=entry.split))
        super().__init__(location, entries, frame_rate)
        self._last_read: tuple[int, list[memoryview]] | None = None  # (video, its frames)

    def parts(self, index: int) -> list[FilePart]:
        return [FilePart(*self._records[self.entries[index].id])]

    def _shape(self, index: int) -> tuple[int, int, int]:
        return len(self._pictures(index)), SIDE, SIDE

    def _frames(self, index: int, numbers: np.ndarray) -> Iterable[np.ndarray]:
        pictures = self._pictures(index)
        return [np.frombuffer(pictures[number], np.uint8).reshape(SIDE, SIDE, 3) for number in numbers]

    def _pictures(self, index: int) -> list[memoryview]:
        if self._last_read is None or self._last_read[0] != index:
            self._last_read = index, _pictures(*self._records[self.entries[index].id])
        return self._last_read[1]


def open_bair_records(location: Location) -> VideoSource | None:
    """A folder of TFRecords, or one file."""
    file = location.file(*SUFFIXES)
    files, root = (location.files_below(*SUFFIXES), location.path) if file is None else ([file], file.parent)
    if not files:
        return None
    source = BairRecords(location.text, root, files, location.frame_rate())
    source.inventory = source.inventory.plus(location.inventory(files))
    return source


def _index(file: Path) -> Iterator[tuple[int, int]]:
    """Offset and size of each record. Raises DataError if a record is incomplete or damaged."""
    end = file.stat().st_size
    with file.open("rb") as stream:
        offset = 0
        while offset < end:
            stream.seek(offset)
            head = stream.read(_LENGTH.size)
            if head.startswith(_GZIP):
                raise DataError(f"{file}: it is compressed with gzip; decompress it first (gunzip takes names in .gz)")
            size, checksum = _LENGTH.unpack(head) if len(head) == _LENGTH.size else (0, -1)
            if checksum != _masked_crc(head[:8]) or offset + _LENGTH.size + size + _CHECKSUM.size > end:
                raise DataError(f"{file}: incomplete or damaged TFRecord at byte {offset}; download the file again")
            yield offset + _LENGTH.size, size
            offset += _LENGTH.size + size + _CHECKSUM.size


def _pictures(file: Path, offset: int, size: int) -> list[memoryview]:
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            record, checksum = stream.read(size), stream.read(_CHECKSUM.size)
    except OSError as error:  # says nothing about the record itself
        raise DataError(f"{file}: {error.strerror}") from error
    if checksum != _CHECKSUM.pack(_masked_crc(record)):
        raise DecodeFailure("corrupt", f"{file.name}: the record at byte {offset} does not match its checksum")
    try:
        features = _features(memoryview(record))
    except (IndexError, ValueError, StopIteration) as error:
        raise DecodeFailure("unreadable", f"{file.name}: the record at byte {offset} is not a tf.Example") from error
    pictures: list[memoryview] = []
    while (picture := features.get(_KEY.format(len(pictures)))) is not None:
        if len(picture) != SIDE * SIDE * 3:
            raise DecodeFailure(
                "unreadable",
                f"{file.name}: an image has {len(picture)} bytes, expected {SIDE * SIDE * 3}: raw {SIDE}x{SIDE} pixels",
            )
        pictures.append(picture)
    if not pictures:
        found = ", ".join(sorted(name for name in features if name.startswith("0/"))) or "none of step 0"
        raise DecodeFailure("unreadable", f"{file.name}: a record has no {_KEY.format(0)}, as BAIR's have ({found})")
    return pictures


def _features(example: memoryview) -> dict[str, memoryview]:
    """The byte features of a tf.Example: Example.features = 1, Features.feature = 1 (a map), Feature.bytes_list = 1."""
    found: dict[str, memoryview] = {}
    for features in _fields(example, 1):
        for entry in _fields(features, 1):
            key = bytes(next(_fields(entry, 1))).decode()
            for feature in _fields(entry, 2):
                for values in _fields(feature, 1):
                    found.update((key, value) for value in _fields(values, 1))
    return found


def _fields(message: memoryview, number: int) -> Iterator[memoryview]:
    """The length-delimited fields with that number in a protocol buffer."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag & 7 != 2:
            raise ValueError(f"wire type {tag & 7} where only length-delimited fields are expected")
        size, position = _varint(message, position)
        if position + size > len(message):
            raise ValueError("a field reaches beyond its message")
        if tag >> 3 == number:
            yield message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than ten bytes")


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
