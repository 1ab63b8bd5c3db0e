"""Two processes end with what one ends with at the same batch, for every objective: through validation, samples,
checkpoints, resuming and export; one training after the other in one group of processes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from every_objective import ALONE, OBJECTIVES, RESUMED, STEPS, make_inputs, train
from launching import run_processes
from safetensors.torch import load_file

from tokenreel.decoders.losses import discriminators
from tokenreel.pipelines.training.checkpoint import read_checkpoint
from tokenreel.pipelines.training.run_folder import read_metrics

SCRIPT = Path(__file__).with_name("every_objective.py")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def launched(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes, by objective."""
    runs = tmp_path_factory.mktemp("launched")
    done = run_processes(2, SCRIPT, inputs, runs)
    assert done.returncode == 0, done.stderr
    return runs


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_end_with_what_one_ends_with(
    tmp_path: Path, inputs: Path, launched: Path, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discriminators, "DEVIATION_GROUP", ALONE)
    one, two = tmp_path / "one", launched / objective
    train(objective, inputs, one)
    for line, other in zip(read_metrics(one / "metrics.jsonl"), read_metrics(two / "metrics.jsonl"), strict=True):
        assert line.keys() == other.keys()
        values = {name: value for name, value in line.items() if "second" not in name}
        assert values == pytest.approx({name: other[name] for name in values}, rel=1e-5, abs=1e-5)
    weights, others = (load_file(run / "model.safetensors") for run in (one, two))
    torch.testing.assert_close(weights, others, rtol=0, atol=1e-4)
    orders = [read_checkpoint(run / f"checkpoints/step_{STEPS:08d}").state["order"] for run in (one, two)]
    assert orders[0] == orders[1]
    written = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one, two)]
    assert written[0] == written[1]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_that_resume_end_with_what_they_would_have_ended_with(launched: Path, objective: str) -> None:
    whole, resumed = (load_file(launched / name / "model.safetensors") for name in (objective, f"{objective}-resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    steps = [line["step"] for line in read_metrics(launched / f"{objective}-resumed/metrics.jsonl")]
    assert min(steps) > RESUMED or steps[0] == RESUMED
