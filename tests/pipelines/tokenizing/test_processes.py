"""What a worker of `tokenize-dataset` writes, and what something that it imports prints in between."""

from __future__ import annotations

import queue
import subprocess
import sys

import pytest

from tokenreel.pipelines.tokenizing.processes import Message, listen


@pytest.mark.parametrize("line", ["hello", "5", "null", "[7]", "[" * 9999])
def test_a_line_that_is_no_message_is_an_error_with_the_line(line: str) -> None:
    messages: queue.Queue[tuple[int, Message]] = queue.Queue()
    with subprocess.Popen([sys.executable, "-c", f"print({line!r})"], stdout=subprocess.PIPE, text=True) as process:
        listen(3, process, messages)
    number, message = messages.get_nowait()
    assert number == 3
    assert message is not None
    assert message["error"].startswith(f"worker 3 wrote '{line[:9]}")
    assert message["error"].endswith("instead of a message")
    assert messages.get_nowait() == (3, None)
