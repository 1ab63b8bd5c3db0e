"""What Windows and macOS lack is not needed. `mypy --platform` finds uses of it, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from tokenreel.pipelines.common.device import peak_memory

resource = pytest.importorskip("resource")  # absent on Windows, which need not be imitated there
HELPERS = Path(__file__).parent / "helpers"
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # files are not UTF-8 on Windows unless stated
OTHER = HELPERS / "other_platform"  # its sitecustomize.py hides what the other system lacks


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_every_module_is_imported_and_works(platform: str, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(OTHER), str(HELPERS), *sys.path])
    done = subprocess.run(
        [sys.executable, str(OTHER / "at_work.py"), str(tmp_path)],
        env={**os.environ, **ASCII, "PLATFORM": platform, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("platform", "counted", "expected"),
    [("linux", 7, 7 * 1024), ("darwin", 7 * 1024, 7 * 1024), ("win32", 13, 13)],
)
def test_memory_is_counted_in_bytes(
    platform: str, counted: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux's ru_maxrss counts KiB, that of macOS bytes; Windows has its own counter."""
    usage = SimpleNamespace(ru_maxrss=counted if platform != "win32" else None)
    memory = SimpleNamespace(peak_wset=counted if platform == "win32" else None)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _: usage)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: memory))
    assert peak_memory(torch.device("cpu")) == expected


def test_peak_memory_is_that_of_this_process() -> None:
    before = peak_memory(torch.device("cpu"))
    assert psutil.Process().memory_info().rss <= before * 1.1
    filled = bytearray(b"1") * (before // 2)
    assert peak_memory(torch.device("cpu")) >= before
    assert len(filled) == before // 2
