from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenreel.errors import CheckpointError
from tokenreel.pipelines.training.checkpoint import Checkpoint, write_checkpoint
from tokenreel.pipelines.training.run_folder import MetricsLog, RunFolder, RunIdentity, read_metrics

HERE = RunIdentity("train-prior", {"training": {"steps": 7}, "prior": {"depth": 3}}, "plan-5", "videos")


def test_metrics_continue_from_the_checkpoint(tmp_path: Path) -> None:
    """A resumed run rewrites what a killed run wrote after its checkpoint, including half a line."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in (2, 4, 6):
        log.write(step, {"loss": step / 8})
    path.write_text(path.read_text() + '{"step": 8, "lo')
    MetricsLog(path, 4).write(6, {"loss": 0.5})
    assert read_metrics(path) == [
        {"step": 2, "loss": 0.25},
        {"step": 4, "loss": 0.5},
        {"step": 6, "loss": 0.5},
    ]


def test_data_may_move_and_steps_may_increase(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", HERE).create(HERE)
    moved = RunIdentity(HERE.command, {"training": {"steps": 11}, "prior": {"depth": 3}}, "plan-5", "elsewhere")
    assert RunFolder.open(tmp_path / "run", moved).resume_from is None


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (RunIdentity("train-tokenizer", HERE.sections, "plan-5", "videos"), "a run of train-prior, not of"),
        (RunIdentity("train-prior", {**HERE.sections, "prior": {"depth": 5}}, "plan-5", "videos"), r"depth = 3, not 5"),
        (RunIdentity("train-prior", HERE.sections, "plan-13", "videos"), r"other data \(plan-5, not plan-13\)"),
    ],
)
def test_another_run_is_refused_with_the_difference(tmp_path: Path, other: RunIdentity, difference: str) -> None:
    RunFolder.open(tmp_path / "run", HERE).create(HERE)
    with pytest.raises(CheckpointError, match=difference):
        RunFolder.open(tmp_path / "run", other)


def test_a_run_that_was_killed_before_it_was_begun_is_begun(tmp_path: Path) -> None:
    for leftover in (".lock", ".run.json-4711"):
        (tmp_path / leftover).write_text("{")
    RunFolder.open(tmp_path, HERE).create(HERE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "run.json"]
    assert RunFolder.open(tmp_path, HERE).resume_from is None


@pytest.mark.parametrize(
    "text",
    [
        '{"command": "train-p',
        "[]",
        '{"command": "train-prior"}',
        '{"command": "train-prior", "config": [], "data": {"identity": "plan-5", "path": "videos"}}',
        '{"command": "train-prior", "config": {"training": {"steps": "7", "decay_steps": 3}, "prior": {"depth": 3}}, '
        '"data": {"identity": "plan-5", "path": "videos"}}',
    ],
)
def test_a_damaged_run_file_is_an_error_not_a_new_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
        RunFolder.open(tmp_path, HERE)


def test_a_damaged_line_of_the_metrics_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [b'{"step": 1, "loss": 0.5}', b'{"step" 2}', b"\xff", b"[3]", b'{"loss": 4}', b"", b"[" * 99999]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, b'{"step": 5, "loss": 0.25}', b""]))
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 5]
    assert "damaged lines are skipped: 2, 3, 4, 5, 6, 7" in caplog.text


def test_a_second_run_in_a_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first, second = (RunFolder.open(tmp_path / "run", HERE) for _ in range(2))
    lock = first.lock()
    with pytest.raises(CheckpointError, match=r"another process is training in --out .*run"):
        second.lock()
    lock.release()
    second.lock().release()
    assert RunFolder.open(tmp_path / "run", HERE).resume_from is None, "a folder that was only locked is empty"


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    script = f"""
import signal
from pathlib import Path
from tokenreel.pipelines.training.run_folder import RunFolder, RunIdentity
lock = RunFolder.open(Path({str(tmp_path / "run")!r}), RunIdentity("train-prior", {{}}, "plan-5", "videos")).lock()
print("locked", flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(CheckpointError, match="another process is training"):
            RunFolder.open(tmp_path / "run", HERE).lock()
        process.kill()
    RunFolder.open(tmp_path / "run", HERE).lock().release()


def test_a_folder_in_which_another_run_has_just_written_is_refused(tmp_path: Path) -> None:
    opened = RunFolder.open(tmp_path / "run", HERE)
    write_checkpoint(tmp_path / "run/checkpoints", Checkpoint(3, {}, {}), keep=1)
    with pytest.raises(CheckpointError, match="another process has just trained"):
        opened.lock()


def test_what_killed_runs_leave_is_removed(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, HERE).create(HERE)
    samples = "samples/.step_00000004~host~77~beef.partial/plan.json"
    half_pruned = "checkpoints/.staging-pruned-0-beef/network.safetensors"
    for name in (".run.json-77", ".tmpAb3dEf", half_pruned, samples):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    RunFolder.open(tmp_path, HERE).create(HERE)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["checkpoints", "run.json", "samples"]
