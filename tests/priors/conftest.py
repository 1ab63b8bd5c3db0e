"""Makes the helpers of this folder importable by its tests, with pytest's explanations of their asserts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("prior_contract")
sys.path.insert(0, str(Path(__file__).parent))
