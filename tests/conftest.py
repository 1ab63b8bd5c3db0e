"""Fixtures of all tests: a local Hub, equal random numbers and one thread in any order; and `--shuffle SEED`.

The Hub is on the loopback, so that no test can reach the real one. huggingface_hub reads its environment once, when it
is imported; therefore it is set here, before any test is.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub, Server

_server = Server()
_home = tempfile.mkdtemp(prefix="tokenreel-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(
    HF_ENDPOINT=_server.url,
    HF_HOME=_home,
    HF_TOKEN="hf_fake",
    HF_HUB_DISABLE_XET="1",  # plain HTTP, as the fake Hub supports nothing else
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
_server.start()
# Whoever runs in the background has these ignored, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform != "win32":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
torch.set_num_threads(1)  # sums depend on the number, and a second one costs more than it saves for small models
# variables that pytest, torch and imported benchmarks set
_OTHERS = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture(autouse=True)
def _independent_of_order() -> Iterator[None]:
    """Each test starts with the same random numbers; afterwards the settings of the process are restored."""
    before = _settings()
    torch.manual_seed(0)
    yield
    left = [name for name, value in _settings().items() if value != before[name]]
    assert not left, f"the test changed {', '.join(left)} for the tests after it"


def _settings() -> dict[str, object]:
    return {
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "the number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the precision of matrix products": torch.get_float32_matmul_precision(),
        "gradients": torch.is_grad_enabled(),
        "the working folder": Path.cwd(),
        "the environment": {name: value for name, value in os.environ.items() if name not in _OTHERS},
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run files, and the tests of each, in random order")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of a file together, as fixtures of a module would otherwise be created again and again."""
    seed = config.getoption("--shuffle")
    if seed is not None:
        generator = random.Random(seed)
        files = {path: generator.random() for path in dict.fromkeys(item.path for item in items)}
        items.sort(key=lambda item: (files[item.path], generator.random()))


@pytest.fixture
def hub() -> FakeHub:
    """An empty Hub that huggingface_hub accesses over real HTTP."""
    _server.hub = FakeHub()
    return _server.hub
