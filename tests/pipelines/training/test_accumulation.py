"""A step of several micro-steps is that of one with the same clips: codebooks are initialised from the whole batch, and
move and revive dead codes once per step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_adversarial import CLIPS, FRAMES, HEIGHT, WIDTH, Clips

from tokenreel.data.spec import Framing
from tokenreel.pipelines.training.loop import Trainer
from tokenreel.pipelines.training.run_folder import RunFolder
from tokenreel.pipelines.training.tokenizer_objective import TokenizerObjective, TokenizerTrainingConfig
from tokenreel.replicas import StepSums, micro_steps, sample_rows
from tokenreel.tokenizers.base import VideoTokenizer, build_tokenizer
from tokenreel.tokenizers.quantizers.vq import VQ

STEPS = 5
SMALL = {"hidden": 4, "residual": 2, "blocks": 1, "latent": 6}
HIERARCHICAL = {
    "type": "hierarchical-vqvae",
    **SMALL,
    "bottom_stride": [1, 2, 2],
    "top_stride": [3, 2, 2],
    "given_frames": 3,
}
MOVING = {"codebook_size": 17, "decay": 0.5, "revive_below": 0.4}  # codes die within steps
TOKENIZERS: dict[str, dict[str, Any]] = {
    "vq": {"type": "frame-vqvae", **SMALL, "quantizer": {"type": "vq", "codebooks": 2, "init": "data", **MOVING}},
    "rvq": {"type": "frame-vqvae", **SMALL, "quantizer": {"type": "rvq", "codebooks": 2, **MOVING}},
    "hierarchical": {**HIERARCHICAL, "quantizer": {"type": "vq", "init": "kmeans", **MOVING}},
}


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also where float32 is asked for: Adam turns rounding of a small gradient into a step of another size."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # oneDNN has no float64
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Revivals:
    """Counts the codes that are revived."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, revive = 0, VQ._revive

        def counted(vq: VQ, candidates: Tensor, even_count: Tensor) -> None:
            self.count += int((vq.average_count < vq.config.revive_below * even_count).sum())
            revive(vq, candidates, even_count)

        monkeypatch.setattr(VQ, "_revive", counted)


def trained(section: dict[str, Any], accumulate: int) -> list[dict[str, Tensor]]:
    """The state of the tokenizer after each step."""
    config = TokenizerTrainingConfig(steps=STEPS, batch=12, accumulate=accumulate, seed=7, optimizer="adam")
    torch.manual_seed(config.seed)
    tokenizer: VideoTokenizer = build_tokenizer(section, FRAMES, Framing(HEIGHT, WIDTH))
    rows = {"train": np.arange(CLIPS), "validation": np.arange(0)}
    plan: Any = SimpleNamespace(rows=rows.__getitem__, sha256="toy", video=np.arange(CLIPS))
    clips: Any = Clips()
    objective = TokenizerObjective(tokenizer, plan, clips, config, torch.device("cpu"))
    accelerator: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
    trainer, states = Trainer(objective, config, RunFolder(Path(), None), accelerator), []
    for _ in range(STEPS):
        trainer._train_step()
        states.append({name: tensor.clone() for name, tensor in tokenizer.state_dict().items()})
    return states


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_micro_steps_change_neither_weights_nor_codebooks(tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    revivals, whole = Revivals(monkeypatch), trained(TOKENIZERS[tokenizer], 1)
    assert revivals.count > 0
    for accumulate in (2, 3):
        for split, expected in zip(trained(TOKENIZERS[tokenizer], accumulate), whole, strict=True):
            torch.testing.assert_close(split, expected, rtol=1e-9, atol=1e-9)


def test_a_step_samples_the_same_rows_however_it_is_split() -> None:
    rows, samples = torch.arange(42.0).view(21, 2), []
    for covered in ([range(1)], [range(1), range(1, 2), range(2, 3)], [range(3)], [range(2), range(2, 3)]):
        count, parts, sums = covered[-1].stop, rows.chunk(covered[-1].stop), torch.zeros(17, 2)
        for steps in covered:
            torch.manual_seed(3)
            with micro_steps(steps, count):
                sums += sample_rows(torch.cat(parts[steps.start : steps.stop]), 17)
        samples.append(sums)
    assert all(torch.equal(sample, samples[0]) for sample in samples)
    assert len(set(samples[0][:, 0].tolist()) & set(rows[:, 0].tolist())) == 17, "a row was sampled twice"


def test_sums_are_of_a_step_and_nothing_is_pending_after_it() -> None:
    sums = StepSums()
    for start in (1.0, 10.0):
        for micro in range(3):
            with micro_steps(range(micro, micro + 1), 3):
                found = sums.add(torch.tensor(start + micro), torch.full((2,), 5.0))
            assert (found is None) == (micro < 2)
        assert found is not None
        assert [part.tolist() for part in found] == [3 * start + 3, [15.0, 15.0]]


def test_a_quantizer_that_is_used_twice_in_a_micro_step_is_an_error() -> None:
    sums, one = StepSums(), torch.ones(1)
    with micro_steps(range(1), 2):
        sums.add(one)
    with micro_steps(range(1, 2), 2):
        sums.add(one)
        with pytest.raises(RuntimeError, match="exactly once"):
            sums.add(one)
