from __future__ import annotations

from pathlib import Path

import pytest

from tokenreel.errors import CheckpointError
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


def test_a_damaged_run_file_is_an_error_not_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"command": "train-p')
    with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
        RunFolder.open(tmp_path, HERE)
