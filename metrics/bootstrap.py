"""Bootstrap intervals over clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., float], *groups: np.ndarray, resamples: int = 200, level: float = 0.95, seed: int = 0
) -> Interval:
    """`statistic(*groups)`, and the interval of its values where the rows of each group are drawn with replacement.

    The interval is moved by the difference between the value and the mean over resamples: repeated rows enlarge a
    distance between distributions, as fewer clips would.
    """
    rng = np.random.default_rng(seed)
    value = float(statistic(*groups))
    draws = [
        statistic(*(group[rng.integers(len(group), size=len(group))] for group in groups)) for _ in range(resamples)
    ]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]) + value - np.mean(draws)
    return Interval(value, float(low), float(high))
