"""Two processes end with what one ends with at the same batch, for every objective: through validation, samples,
checkpoints and export.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from every_objective import ALONE, OBJECTIVES, STEPS, make_inputs, train
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


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_end_with_what_one_ends_with(
    tmp_path: Path, inputs: Path, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discriminators, "DEVIATION_GROUP", ALONE)
    one, two = tmp_path / "one", tmp_path / "two"
    train(objective, inputs, one)
    done = run_processes(2, SCRIPT, objective, inputs, two)
    assert done.returncode == 0, done.stderr
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
