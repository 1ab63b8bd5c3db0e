"""The spread of clips against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tokenreel.metrics.spread import Spread, spread


def _clips(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def test_spread_is_the_deviation_over_clips() -> None:
    clips = _clips(11, 3, 5, 7, 3)
    assert spread(clips) == pytest.approx(math.sqrt(clips.astype(float).var(0).mean()))
    assert spread(clips[:1].repeat(3, 0)) == 0
    assert math.isnan(spread(clips[:0]))


def test_parts_of_the_clips_have_the_same_spread_exactly() -> None:
    clips, parts = _clips(11, 3, 5, 7, 3), [Spread() for _ in range(3)]
    for part, some in zip(parts, (clips[:2], clips[2:9], clips[9:]), strict=True):
        part.update(some)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert parts[0].compute() == spread(clips)
