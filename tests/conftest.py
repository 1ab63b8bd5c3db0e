"""What every test gets: a Hub of its own on the loopback, so that no test can reach the real one.

huggingface_hub reads its environment once, when it is imported; therefore it is set here, before any test is.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest
from fake_hub import FakeHub, Server

_server = Server()
_home = tempfile.mkdtemp(prefix="tokenreel-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(
    HF_ENDPOINT=_server.url,
    HF_HOME=_home,
    HF_TOKEN="hf_fake",
    HF_HUB_DISABLE_XET="1",  # plain HTTP, which is what the fake Hub speaks
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
_server.start()


@pytest.fixture
def hub() -> FakeHub:
    """An empty Hub, to which huggingface_hub talks over real HTTP."""
    _server.hub = FakeHub()
    return _server.hub
