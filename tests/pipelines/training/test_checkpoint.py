"""A checkpoint is complete or absent, whatever happens while it is written."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokenreel.errors import CheckpointError
from tokenreel.pipelines.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)


def make(step: int) -> Checkpoint:
    weight = torch.full((3, 5), float(step))
    tensors = {"network": {"weight": weight, "tied": weight}, "optimizer": {"weight/step": torch.tensor(7)}}
    return Checkpoint(step, tensors, {"order": {"consumed": 12 * step}})


def test_round_trip_with_tied_weights(tmp_path: Path) -> None:
    read = read_checkpoint(write_checkpoint(tmp_path, make(2), keep=1))
    assert read.step == 2
    assert read.state == {"order": {"consumed": 24}}
    torch.testing.assert_close(read.tensors, make(2).tensors, rtol=0, atol=0)


def test_older_checkpoints_are_pruned_after_a_newer_one_is_published(tmp_path: Path) -> None:
    for step in (9, 10, 11, 100):
        write_checkpoint(tmp_path, make(step), keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_00000011", "step_00000100"]


@pytest.mark.parametrize("keep", [1, 2])
def test_neither_a_new_checkpoint_nor_its_origin_is_pruned_beside_later_ones(tmp_path: Path, keep: int) -> None:
    for step in (20, 40, 60):
        write_checkpoint(tmp_path, make(step), keep=3)
    write_checkpoint(tmp_path, make(31), keep, protected=[tmp_path / "step_00000020"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"step_00000020", "step_00000031", "step_00000040", "step_00000060"}


DEEP = "[" * 99999


@pytest.mark.parametrize("manifest", ['{"format": 1, "filez": {}}', '{"format": 1, "files": {}}', "[]", DEEP])
def test_a_manifest_of_another_shape_is_damage_and_the_previous_checkpoint_is_used(
    tmp_path: Path, manifest: str
) -> None:
    for step in (3, 5):
        write_checkpoint(tmp_path, make(step), keep=2)
    (tmp_path / "step_00000005/manifest.json").write_text(manifest)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 3


@pytest.mark.parametrize("name", ["network.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_damage_to_any_file_is_detected_and_the_previous_checkpoint_is_used(
    tmp_path: Path, name: str, harm: str
) -> None:
    for step in (3, 5):
        write_checkpoint(tmp_path, make(step), keep=2)
    victim = tmp_path / "step_00000005" / name
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 64
    victim.write_bytes(content if harm == "flip" else content[:-1])
    if harm == "delete":
        victim.unlink()
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(tmp_path / "step_00000005")
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 3


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("state.json", "{}", r"state\.json is damaged: it states no step"),
        ("network.safetensors", "{}", "step_00000003 is damaged: "),
    ],
)
def test_a_file_of_other_content_is_damage_though_the_manifest_has_its_hash(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    path = write_checkpoint(tmp_path, make(3), keep=1)
    (path / name).write_text(content)
    manifest = json.loads((path / "manifest.json").read_text())
    digest = hashlib.sha256(content.encode()).hexdigest()
    manifest["files"][name] = {"bytes": len(content), "sha256": digest}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=problem):
        read_checkpoint(path)


def test_only_damaged_checkpoints_is_an_error_and_none_is_a_new_run(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent") is None
    (write_checkpoint(tmp_path, make(3), keep=1) / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"is intact: .*state\.json"):
        newest_checkpoint(tmp_path)


def test_leftovers_of_a_killed_writer_are_ignored_and_removed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make(3), keep=2)
    staging = tmp_path / ".staging-5-deadbeef"
    staging.mkdir()
    (staging / "network.safetensors").write_bytes(b"half")
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 3
    write_checkpoint(tmp_path, make(5), keep=2)
    assert not staging.exists()


def test_a_full_disk_keeps_the_last_checkpoint_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    """A limit on the size of files simulates the full disk; it needs a separate process."""
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_checkpoint import make
from tokenreel.errors import CheckpointError
from tokenreel.pipelines.training.checkpoint import write_checkpoint
folder = Path({str(tmp_path)!r})
write_checkpoint(folder, make(3), keep=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, {resource.RLIM_INFINITY}))
try:
    write_checkpoint(folder, make(5), keep=1)
except CheckpointError as error:
    assert "step 5 cannot be written" in str(error) and "free disk space" in str(error), error
else:
    sys.exit("nothing was raised")
"""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list_checkpoints(tmp_path) == list(tmp_path.iterdir()), "and nothing half written beside it"
    assert read_checkpoint(tmp_path / "step_00000003").step == 3
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
