"""Messages of decode workers: what one that is out of order writes is an end of the connection, and no other error."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from tokenreel.data.decoding.messages import ConnectionLost, receive, send


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_what_is_sent_is_received(pipe: tuple[int, int]) -> None:
    for payload in (b"", bytes(range(251))):
        send(pipe[1], {"kind": "frames", "shape": [7, 5]}, payload)
        assert receive(pipe[0]) == ({"kind": "frames", "shape": [7, 5]}, bytearray(payload))


@pytest.mark.parametrize(
    ("header", "payload_size"),
    [(b"{}", 2**62), (b"{}", 2**64 - 1), (b"[7]", 0), (b"{", 0), (b"\xff\xff", 0), (b"[" * 50_000, 0)],
)
def test_what_is_no_message_ends_the_connection(pipe: tuple[int, int], header: bytes, payload_size: int) -> None:
    os.write(pipe[1], struct.pack("<IQ", len(header), payload_size) + header)
    with pytest.raises(ConnectionLost, match=r"not a message|for which there is no memory"):
        receive(pipe[0])
