"""Which model is the best is read from its own file, which may be damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenreel.pipelines.training.best_model import BestModel, read_best

COUNTS = {"held_out_clips": 11, "held_out_videos": 3}


@pytest.mark.parametrize("scores", [{"psnr": "31"}, {"qsnr": 31.0}, 5, None])
def test_a_model_with_damaged_scores_is_replaced(scores: Any, tmp_path: Path) -> None:
    scores = {**COUNTS, **scores} if isinstance(scores, dict) else scores
    (tmp_path / "config.json").write_text(json.dumps({"about": {"steps": 7, "scores": scores}}))
    model = BestModel(tmp_path, "psnr", highest=True)
    assert model.is_beaten_by({**COUNTS, "psnr": 29.0})
    json.dumps(model.summary())  # of a complete run, which validates no more


def test_an_intact_model_is_compared(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"about": {"steps": 7, "scores": {**COUNTS, "psnr": 31.0}}}))
    best = read_best(tmp_path)
    assert best is not None
    assert best.step == 7
    compared = [BestModel(tmp_path, "psnr", highest=highest) for highest in (True, False)]
    assert [model.is_beaten_by({**COUNTS, "psnr": 29.0}) for model in compared] == [False, True]
    assert compared[0].is_beaten_by({**COUNTS, "held_out_clips": 13, "psnr": 29.0})
