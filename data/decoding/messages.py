"""Messages between a decode pool and its workers: a JSON header and raw bytes, each preceded by its length.

Nothing that a worker sends can run code in the receiving process.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Mapping
from typing import Any

_LENGTHS = struct.Struct("<IQ")  # bytes of the header, bytes of the payload
MAX_HEADER_BYTES = 1 << 26  # a longer one is not from a worker of ours


class ConnectionLost(Exception):
    """The other process has closed the connection or sent an invalid message."""


class TimedOut(ConnectionLost):
    """The other process did not answer in time."""


def send(descriptor: int, header: Mapping[str, Any], payload: memoryview | bytes = b"") -> None:
    """Writes one message; a memoryview as payload must be of bytes. Raises ConnectionLost if the reader has exited."""
    text = json.dumps(header).encode()
    pieces = [memoryview(_LENGTHS.pack(len(text), len(payload)) + text), memoryview(payload)]
    try:
        for piece in pieces:
            while piece:
                piece = piece[os.write(descriptor, piece) :]
    except BrokenPipeError as error:
        raise ConnectionLost("closed the connection") from error


def receive(descriptor: int, timeout_s: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """Reads one message within `timeout_s` seconds. Raises ConnectionLost if it does not arrive completely."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    header_size, payload_size = _LENGTHS.unpack(_read(descriptor, _LENGTHS.size, deadline))
    if header_size > MAX_HEADER_BYTES:
        raise ConnectionLost("sent something that is not a message")
    header = json.loads(_read(descriptor, header_size, deadline))
    return header, _read(descriptor, payload_size, deadline)


def _read(descriptor: int, size: int, deadline: float | None) -> bytearray:
    """The next `size` bytes."""
    buffer = bytearray(size)
    remaining = memoryview(buffer)
    poll = select.poll()  # not select(): file descriptors of a long job may exceed its limit of 1,024
    poll.register(descriptor, select.POLLIN)
    while remaining:
        timeout_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(timeout_ms):
            raise TimedOut("timed out")
        count = os.readv(descriptor, [remaining])
        if count == 0:
            raise ConnectionLost("closed the connection")
        remaining = remaining[count:]
    return buffer
