"""Bounds on what the Hub answers, apart from files: huggingface_hub waits without a time limit, and reads any answer
into memory.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError

from tokenreel.errors import HubError

SILENCE_S = 30.0  # of the Hub while something is read, after which a request is given up
MAX_ANSWERS_BYTES = 64 << 20  # of all answers to a call of huggingface_hub; a listing has about 300 bytes for each file
MAX_ANSWER_S = 300.0
COMPRESSED = 256  # times as many bytes as it has are counted of a compressed answer, which is not asked for

# httpx before huggingface_hub 2, then httpx2
_HTTP: Any = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


@contextmanager
def bounded_answers() -> Iterator[None]:
    """Within this context huggingface_hub raises HubError for answers that are too large or take too long."""
    client, budget = get_session(), _Budget()
    before = client.event_hooks
    client.event_hooks = {
        "request": [*before["request"], _limit_silence, _ask_for_plain],
        "response": [*before["response"], budget.bound],
    }
    try:
        yield
    finally:
        client.event_hooks = before


def _limit_silence(request: Any) -> None:
    if request.method in ("GET", "HEAD"):  # a commit may take its time
        limits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {name: SILENCE_S if s is None else s for name, s in limits.items()}


def _ask_for_plain(request: Any) -> None:
    if "/api/" in request.url.path:
        request.headers["Accept-Encoding"] = "identity"


class _Budget:
    """The bytes that answers may still have."""

    def __init__(self) -> None:
        self.left = MAX_ANSWERS_BYTES

    def bound(self, response: Any) -> None:
        is_file = response.is_success and response.request.method == "GET" and "/api/" not in response.request.url.path
        if not is_file:  # those are bounded by their announced size, see `BoundedProgress`
            weight = COMPRESSED if "Content-Encoding" in response.headers else 1
            response.stream = _BoundedStream(response.stream, self, weight)


class _BoundedStream(_HTTP.SyncByteStream):
    """The bytes of `stream`, as they are sent, within the budget."""

    def __init__(self, stream: Any, budget: _Budget, weight: int) -> None:
        self.stream, self.budget, self.weight = stream, budget, weight

    def __iter__(self) -> Iterator[bytes]:
        deadline = time.monotonic() + MAX_ANSWER_S
        for chunk in self.stream:
            self.budget.left -= len(chunk) * self.weight
            if self.budget.left < 0:
                raise HubError(f"the Hub answers with more than {MAX_ANSWERS_BYTES:,} bytes besides files; try again")
            if time.monotonic() > deadline:
                raise HubError(
                    f"the Hub takes more than {MAX_ANSWER_S:.0f} s for an answer other than a file; try again"
                )
            yield chunk

    def close(self) -> None:
        self.stream.close()
