from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tokenreel.data.spec import Framing
from tokenreel.errors import CheckpointError, DataError, HubError
from tokenreel.pipelines.commands import inspect as inspect_path
from tokenreel.pipelines.commands import verify
from tokenreel.pipelines.requests.artifacts import InspectRequest, VerifyRequest
from tokenreel.pipelines.training.checkpoint import Checkpoint, checkpoint_path, write_checkpoint
from tokenreel.tokenizers.base import build_tokenizer

SECTION = {"type": "frame-vqvae", "hidden": 8, "residual": 4, "blocks": 1, "latent": 4, "quantizer": {"type": "fsq"}}


def flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_saved_model_is_checked_against_its_fingerprints(tmp_path: Path) -> None:
    build_tokenizer(SECTION, 3, Framing(8, 8)).save_pretrained(tmp_path)
    assert verify.run(VerifyRequest(path=tmp_path))["kind"] == "tokenizer"
    assert inspect_path.run(InspectRequest(path=tmp_path))["model"]["config"]["hidden"] == 8
    flip_last_byte(tmp_path / "model.safetensors")
    with pytest.raises(HubError, match="not those that"):
        verify.run(VerifyRequest(path=tmp_path))


def test_every_checkpoint_of_a_run_is_checked(tmp_path: Path) -> None:
    for step in (3, 7):
        write_checkpoint(tmp_path / "checkpoints", Checkpoint(step, {"model": {"w": torch.ones(5)}}, {}), keep=2)
    (tmp_path / "run.json").write_text("{}")
    assert verify.run(VerifyRequest(path=tmp_path))["checkpoints"] == 2
    assert verify.run(VerifyRequest(path=checkpoint_path(tmp_path / "checkpoints", 7)))["step"] == 7
    assert inspect_path.run(InspectRequest(path=tmp_path))["checkpoints"] == ["step_00000003", "step_00000007"]
    flip_last_byte(checkpoint_path(tmp_path / "checkpoints", 3) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"step_00000003/model\.safetensors is damaged"):
        verify.run(VerifyRequest(path=tmp_path))


def test_the_best_model_of_a_run_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert not verify.run(VerifyRequest(path=tmp_path))["best"]
    build_tokenizer(SECTION, 3, Framing(8, 8)).save_pretrained(tmp_path / "best")
    assert verify.run(VerifyRequest(path=tmp_path))["best"]
    flip_last_byte(tmp_path / "best/model.safetensors")
    with pytest.raises(HubError, match="best: the weights are not those that"):
        verify.run(VerifyRequest(path=tmp_path))


def test_a_folder_without_an_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no cache"):
        verify.run(VerifyRequest(path=tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        inspect_path.run(InspectRequest(path=tmp_path / "nothing"))
