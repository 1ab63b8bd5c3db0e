"""The import contracts of pyproject.toml are kept, and detect imports that violate them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tokenreel

ROOT = Path(__file__).parents[1]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the checkout's code with its links, which tests may change."""
    root = tmp_path / "copy"
    root.mkdir()
    shutil.copy(ROOT / "pyproject.toml", root)
    for folder in ("src", "data", "decoders", "tokenizers", "priors", "metrics", "pipelines"):
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_the_contracts_are_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("priors/broken.py", "from tokenreel.data.pixels import to_model"),
        ("priors/broken.py", "from tokenreel.tokenizers.base import VideoTokenizer"),
        ("priors/broken.py", "import av"),
        ("data/broken.py", "from tokenreel.decoders.frame_decoder import FrameDecoder"),
        ("tokenizers/broken.py", "from tokenreel.priors.base import Prior"),
        ("metrics/broken.py", "import tokenreel.tokenizers.base"),
        ("decoders/broken.py", "import tokenreel.pipelines.common.progress"),
    ],
)
def test_a_forbidden_import_is_detected(copy: Path, module: str, line: str) -> None:
    (copy / module).write_text(line + "\n")
    done = lint_imports(copy)
    assert done.returncode != 0
    assert module.replace("/", ".").removesuffix(".py") in done.stdout


def test_every_public_name_is_imported_only_when_it_is_used() -> None:
    assert all(getattr(tokenreel, name) is not None for name in tokenreel.__all__)
    with pytest.raises(AttributeError, match="VideoTokeniser"):
        _ = tokenreel.VideoTokeniser
    code = "import sys, tokenreel; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
