"""Indexes of video files in a folder, so that no process reads all packets of a file that another one has read.

Each process appends to a file of its own, one record for each video: digest of the key, length, checksum, and a
compressed body of JSON and differences of times. What is damaged or of another version is not found, and so made anew;
the folder may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import struct
import sys
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from tokenreel.data.video.keyframes import KeyframeIndex
from tokenreel.data.video.probe import VideoProbe
from tokenreel.data.video.reader import VideoIndex

SUFFIX = ".probes"  # of the folder beside a cache or a run, and of the files in it
MAX_BODY_BYTES = 1 << 28  # decompressed; 12 hours at 120 frames per second have 42 MB
_FORMAT = 1
_HEAD = struct.Struct("<16sII")  # digest of the key, bytes of the body, its CRC-32

FileKey = Sequence[str | int | None]  # path, place in it, size and times of a video's file

logger = logging.getLogger(__name__)


def probes_beside(path: Path) -> Path:
    """The folder of indexes for a cache or a run at `path`."""
    return path.with_name(path.name + SUFFIX)


class ProbeStore:
    """The indexes in `folder`, which is created with the first one. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._scanned: list[int] = []  # bytes of each file
        self._places: dict[bytes, list[tuple[int, int]]] = {}  # digest -> number of the file and offset of each record
        self._own = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        self._failed = False

    def find(self, key: FileKey) -> VideoIndex | None:
        """The index of the file with that key; None if it is not there, or damaged."""
        digest = _digest(key)
        return self._read(digest) or (self._read(digest) if self._scan() else None)

    def add(self, key: FileKey, index: VideoIndex) -> None:
        """Keeps an index for all processes. Where the folder cannot be written, a warning says so once."""
        body = _pack(index)
        if self._failed or body is None:
            return
        record = _HEAD.pack(_digest(key), len(body), zlib.crc32(body)) + body
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / self._own).open("ab", buffering=0) as file:
                if file.write(record) < len(record):
                    raise OSError("it is full")
        except OSError as error:
            self._failed = True  # what follows a torn record would not be found
            logger.warning("%s cannot be written (%s): videos will be probed again", self._folder, error)

    def _scan(self) -> bool:
        """Takes note of the records that were added since. Returns whether there are any."""
        try:
            found = sorted(path for path in self._folder.iterdir() if path.suffix == SUFFIX)
        except OSError:
            return False  # nothing is kept yet
        added = 0
        for path in found:
            if path not in self._files:
                self._files.append(path)
                self._scanned.append(0)
            number = self._files.index(path)
            try:
                size = path.stat().st_size
                if size > self._scanned[number]:
                    added += self._scan_file(number, size)
            except (OSError, struct.error) as error:  # the latter if it was cut meanwhile
                self._scanned[number] = sys.maxsize  # not tried, nor said, again
                logger.warning("%s cannot be read (%s): its videos are probed again", path, error)
        return added > 0

    def _scan_file(self, number: int, size: int) -> int:
        """Returns how many records were added."""
        offset, added = self._scanned[number], 0
        with self._files[number].open("rb") as file:
            while offset + _HEAD.size <= size:
                file.seek(offset)
                digest, length, _ = _HEAD.unpack(file.read(_HEAD.size))
                if offset + _HEAD.size + length > size:
                    break  # torn, or being written
                self._places.setdefault(digest, []).append((number, offset))
                offset, added = offset + _HEAD.size + length, added + 1
        self._scanned[number] = offset
        return added

    def _read(self, digest: bytes) -> VideoIndex | None:
        """From the first of its records that is intact: a damaged one is followed by another."""
        found = (self._read_at(digest, *place) for place in self._places.get(digest, ()))
        return next((index for index in found if index is not None), None)

    def _read_at(self, digest: bytes, number: int, offset: int) -> VideoIndex | None:
        try:
            with self._files[number].open("rb") as file:
                file.seek(offset)
                found, length, checksum = _HEAD.unpack(file.read(_HEAD.size))
                body = file.read(length)
        except (OSError, struct.error):
            return None  # removed, or cut, since
        return _unpack(body) if found == digest and zlib.crc32(body) == checksum else None


def _digest(key: FileKey) -> bytes:
    version = [_FORMAT, *(av.library_versions[name] for name in ("libavformat", "libavcodec"))]
    return hashlib.blake2b(json.dumps([version, list(key)]).encode(), digest_size=16).digest()


def _pack(index: VideoIndex) -> bytes | None:
    """None for one that is too large to be kept."""
    probe, keyframes = index.probe, index.keyframes.columns
    facts = {
        "height": probe.height,
        "width": probe.width,
        "codec": probe.codec,
        "last_duration": probe.last_duration,
        "time_base": index.time_base,
        "counted": index.counted,
        "frames": len(index.times),
    }
    arrays = [np.diff(values, prepend=0).astype("<i8").tobytes() for values in (index.times, *keyframes)]
    body = b"".join([json.dumps(facts).encode(), b"\n", *arrays])
    return zlib.compress(body, 1) if len(body) <= MAX_BODY_BYTES else None


def _unpack(body: bytes) -> VideoIndex | None:
    """None for what `_pack` cannot have made."""
    try:
        text, _, data = zlib.decompressobj().decompress(body, MAX_BODY_BYTES).partition(b"\n")
        facts = json.loads(text)
        values = np.frombuffer(data, "<i8")
        frames, time_base, counted = (facts.pop(name) for name in ("frames", "time_base", "counted"))
        times = np.cumsum(values[:frames])
        keyframes = np.cumsum(values[frames:].reshape(3, -1), axis=1)
        probe = VideoProbe(times * time_base, **facts)
        return VideoIndex(probe, times, time_base, KeyframeIndex.of(keyframes), counted)
    except (zlib.error, ValueError, KeyError, TypeError):
        return None
