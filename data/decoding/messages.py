"""Messages between a decode pool and its workers: a JSON header and raw bytes, each preceded by its length.

Nothing that a worker sends can run code in the receiving process.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from io import FileIO
from typing import Any

_LENGTHS = struct.Struct("<IQ")  # bytes of the header, bytes of the payload
MAX_HEADER_BYTES = 1 << 26  # a longer one is not from a worker of ours


class ConnectionLost(Exception):
    """The other process has closed the connection or sent an invalid message."""


def send(descriptor: int, header: Mapping[str, Any], payload: memoryview | bytes = b"") -> None:
    """Writes one message; a memoryview as payload must be of bytes. Raises ConnectionLost if the reader has exited."""
    text = json.dumps(header).encode()
    pieces = [memoryview(_LENGTHS.pack(len(text), len(payload)) + text), memoryview(payload)]
    try:
        for piece in pieces:
            while piece:
                piece = piece[os.write(descriptor, piece) :]
    except OSError as error:  # a broken pipe, for which Windows has several names
        raise ConnectionLost("closed the connection") from error


def receive(descriptor: int) -> tuple[dict[str, Any], bytearray]:
    """Waits for one message. Raises ConnectionLost if it does not arrive completely."""
    with open(descriptor, "rb", buffering=0, closefd=False) as pipe:
        header_size, payload_size = _LENGTHS.unpack(_read(pipe, _LENGTHS.size))
        if header_size > MAX_HEADER_BYTES:
            raise ConnectionLost("sent something that is not a message")
        try:
            header = json.loads(_read(pipe, header_size))
            if not isinstance(header, dict):
                raise ConnectionLost("sent something that is not a message")
            return header, _read(pipe, payload_size)
        except (ValueError, RecursionError) as error:
            raise ConnectionLost("sent something that is not a message") from error
        except (MemoryError, OverflowError) as error:
            raise ConnectionLost(f"sent a message of {payload_size:,} bytes, for which there is no memory") from error


def _read(pipe: FileIO, size: int) -> bytearray:
    """The next `size` bytes."""
    buffer = bytearray(size)
    remaining = memoryview(buffer)
    while remaining:
        count = pipe.readinto(remaining)
        if not count:
            raise ConnectionLost("closed the connection")
        remaining = remaining[count:]
    return buffer
