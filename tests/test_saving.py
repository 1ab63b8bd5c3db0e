"""Weights are written like any other file: others may read them as the umask says, and a full disk is one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from torch import nn

from tokenreel import saving
from tokenreel.errors import HubError
from tokenreel.pipelines.training.checkpoint import Checkpoint, write_checkpoint
from tokenreel.saving import write_weights


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_weights_have_the_mode_of_a_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_weights(nn.Linear(5, 3), tmp_path / "model.safetensors")
        checkpoint = write_checkpoint(tmp_path, Checkpoint(1, {"network": nn.Linear(5, 3).state_dict()}, {}), keep=1)
        assert os.umask(umask) == umask, "it must be what it was"
    finally:
        os.umask(before)
    files = [tmp_path / "model.safetensors", *checkpoint.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}


@pytest.mark.parametrize("error", [MemoryError(), SafetensorError("No space left on device"), OSError(28, "No space")])
def test_weights_that_cannot_be_written_are_one_line(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(saving, "save_model", fail)
    with pytest.raises(HubError, match=r"model\.safetensors cannot be written: .*free disk space or memory"):
        write_weights(nn.Linear(5, 3), tmp_path / "model.safetensors")
