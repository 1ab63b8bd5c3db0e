"""The demo's samples stand beside the clip that they went on from."""

from __future__ import annotations

import numpy as np

from tokenreel.pipelines.report.demo_report import _group_by_start


def test_samples_drawn_in_turn_are_grouped_by_their_start() -> None:
    """Sample i went on from start i % starts; what does not fill a round is left out."""
    drawn = np.arange(11)[:, None]
    assert _group_by_start(drawn, 3)[..., 0].tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert _group_by_start(drawn[:3], 1)[..., 0].tolist() == [[0, 1, 2]]
