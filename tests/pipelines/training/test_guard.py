"""A run whose reconstructions collapse is stopped, and its last good checkpoint is exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_adversarial import SECTION, train_toy

from tokenreel.pipelines.training.losses import Diverged, ReconstructionGuard
from tokenreel.tokenizers.base import VideoTokenizer


def test_a_run_whose_reconstructions_collapse_is_stopped_and_exports_the_newest_checkpoint(tmp_path: Path) -> None:
    """With an adversarial weight of 10^5 and a high learning rate the tokenizer only fools its discriminators."""
    adversarial = {"weight": 1e5, "start_step": 8, "r1": 0.0}
    changes = {"steps": 200, "learning_rate": 0.05, "accumulate": 1, "guard": 1.5, "adversarial": adversarial}
    wild = {**SECTION, **changes}
    with pytest.raises(Diverged) as error:
        train_toy(tmp_path, wild)
    message = str(error.value)
    assert "\n" not in message
    assert "more than 1.5 times its best" in message
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    newest, step = tmp_path / "checkpoints" / kept[-1], int(kept[-1].removeprefix("step_"))
    assert 8 <= step < int(message.partition(" at step ")[2].partition(",")[0])
    assert message.endswith(f". {tmp_path} now holds the model of step {step}, its newest intact checkpoint")
    good = load_file(newest / "network_guard.safetensors")
    assert good["running"] <= 1.5 * good["best"]
    exported = VideoTokenizer.from_pretrained(tmp_path)
    assert exported.about["steps"] == step
    assert exported.about["scores"]["psnr"] > 0
    average = load_file(newest / "average.safetensors")
    averaged = {name.removeprefix("tokenizer."): tensor for name, tensor in average.items()}
    expected = {**load_file(newest / "network_tokenizer.safetensors"), **averaged}
    assert expected.keys() == exported.state_dict().keys()
    assert all(torch.equal(expected[name], tensor) for name, tensor in exported.state_dict().items())


def test_the_guard_compares_the_running_mean_with_its_best_only_after_the_start() -> None:
    guard = ReconstructionGuard(2.0, start=5)
    guard.check(1, [1.0, 1.0, 50.0, 1.0])  # any loss is accepted before the start
    assert guard.best == 1
    guard = ReconstructionGuard(2.0, start=5)
    guard.check(1, [1.0] * 6)
    guard.check(7, [10.0])  # 0.9 + 0.1 * 10
    assert guard.running.item() == pytest.approx(1.9)
    with pytest.raises(Diverged, match=r"loss is 2\.71 at step 8, more than 2 times its best, 1 at step 1"):
        guard.check(8, [10.0])


def test_the_guard_may_change_when_a_run_is_resumed(tmp_path: Path) -> None:
    """On, off and on again; it begins with the losses that it sees, not with a mean of 0."""
    for steps, guard in ((4, None), (8, 1.5), (9, None), (11, 1.5)):
        train_toy(tmp_path, {**SECTION, "guard": guard, "steps": steps})
    assert load_file(tmp_path / "checkpoints/step_00000011/network_guard.safetensors")["best"] > 0.01


def test_the_guards_state_does_not_depend_on_how_steps_are_grouped() -> None:
    losses = np.random.default_rng(0).uniform(0.5, 1, 11).tolist()
    at_once, one_by_one = ReconstructionGuard(9.0, 0), ReconstructionGuard(9.0, 0)
    at_once.check(1, losses)
    for step, loss in enumerate(losses, 1):
        one_by_one.check(step, [loss])
    for name, value in at_once.state_dict().items():
        assert torch.equal(value, one_by_one.state_dict()[name]), name
