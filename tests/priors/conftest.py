"""Makes the helpers of this folder importable by its tests, with pytest's explanations of their asserts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.register_assert_rewrite("prior_contract")
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _same_every_time():
    """The same initial weights in every run; one thread, as a second costs more than models of this size gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
