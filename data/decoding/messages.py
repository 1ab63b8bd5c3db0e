"""Messages between a decode pool and its workers: a JSON header and raw bytes, each with its length before it.

Nothing that a worker sends can run code in the process that reads it.
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
_HEADER_LIMIT = 1 << 26  # bytes; a longer one is not ours


class ConnectionLost(Exception):
    """The other side is gone."""


class TimedOut(ConnectionLost):
    """The other side did not answer in time."""


def send(descriptor: int, header: Mapping[str, Any], payload: memoryview | bytes = b"") -> None:
    """Writes one message; a view as payload must be one of bytes. Raises ConnectionLost where nobody reads any more."""
    text = json.dumps(header).encode()
    pieces = [memoryview(_LENGTHS.pack(len(text), len(payload)) + text), memoryview(payload)]
    try:
        for piece in pieces:
            while piece:
                piece = piece[os.write(descriptor, piece) :]
    except BrokenPipeError as error:
        raise ConnectionLost("hung up") from error


def receive(descriptor: int, timeout_s: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """Reads one message within `timeout_s` seconds. Raises ConnectionLost where it does not come whole."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    header_size, payload_size = _LENGTHS.unpack(_read(descriptor, _LENGTHS.size, deadline))
    if header_size > _HEADER_LIMIT:
        raise ConnectionLost("sent something that is not a message")
    header = json.loads(_read(descriptor, header_size, deadline))
    return header, _read(descriptor, payload_size, deadline)


def _read(descriptor: int, size: int, deadline: float | None) -> bytearray:
    """Exactly `size` bytes."""
    buffer = bytearray(size)
    rest = memoryview(buffer)
    poll = select.poll()  # not select(): file descriptors of a long job may exceed its 1,024
    poll.register(descriptor, select.POLLIN)
    while rest:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(left):
            raise TimedOut("ran out of time")
        count = os.readv(descriptor, [rest])
        if count == 0:
            raise ConnectionLost("hung up")
        rest = rest[count:]
    return buffer
