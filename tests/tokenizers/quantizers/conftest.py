"""The state of two processes after training the same quantizers; run once for all tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

SCRIPT = Path(__file__).with_name("replica_script.py")
sys.path.insert(0, str(SCRIPT.parent))  # for replica_script, which is a module as well


@pytest.fixture(scope="session")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """The state of two gloo processes, each with data of its own, after some steps; see replica_script.py."""
    folder = tmp_path_factory.mktemp("replicas")
    commands = [[sys.executable, str(SCRIPT), str(folder), str(rank)] for rank in range(2)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]
