"""The demo shows samples next to the clip that they continue."""

from __future__ import annotations

import numpy as np

from tokenreel.pipelines.report.demo_report import _group_by_start


def test_samples_are_grouped_by_the_clip_that_they_continue() -> None:
    """Sample i continues start i % starts; an incomplete last round is omitted."""
    samples = np.arange(11)[:, None]
    assert _group_by_start(samples, 3)[..., 0].tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert _group_by_start(samples[:3], 1)[..., 0].tolist() == [[0, 1, 2]]
