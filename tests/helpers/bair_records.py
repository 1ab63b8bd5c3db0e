"""TFRecords in the layout of BAIR robot pushing, encoded without a library."""

from __future__ import annotations

import struct

import google_crc32c
import numpy as np


def _field(number: int, data: bytes) -> bytes:
    size, length = len(data), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def masked_crc(data: bytes) -> bytes:
    """The checksum of a TFRecord."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(frames: np.ndarray, camera: str = "aux1") -> bytes:
    """A tf.Example in BAIR's layout, with one float feature and images of two cameras, between its checksums."""
    entries = b""
    for number, frame in enumerate(frames):
        features = {
            f"{number}/image_main/encoded": _field(1, _field(1, bytes(64 * 64 * 3))),
            f"{number}/image_{camera}/encoded": _field(1, _field(1, frame.tobytes())),
            f"{number}/action": _field(2, _field(1, struct.pack("<4f", 1, 2, 3, 4))),
        }
        entries += b"".join(_field(1, _field(1, k.encode()) + _field(2, value)) for k, value in features.items())
    example = _field(1, entries)

    length = struct.pack("<Q", len(example))
    return length + masked_crc(length) + example + masked_crc(example)
