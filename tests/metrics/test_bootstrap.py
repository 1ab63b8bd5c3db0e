"""Bootstrap intervals of statistics whose error is known."""

from __future__ import annotations

import numpy as np
import pytest

from tokenreel.metrics.bootstrap import bootstrap


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(5, 2, 401)
    interval, error = bootstrap(np.mean, values, resamples=1000), values.std(ddof=1) / np.sqrt(401)
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(interval.value - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(interval.value + 1.96 * error, abs=0.15 * error)


def test_a_biased_statistic_is_inside_its_interval() -> None:
    """The number of different values falls by a third where rows are repeated, and the interval with it if unmoved."""
    interval = bootstrap(lambda values: len(np.unique(values)), np.arange(101))
    assert interval.low < interval.value == 101 < interval.high


def test_groups_are_resampled_apart_and_with_their_rows_together() -> None:
    pairs, others = np.arange(7)[:, None] + np.array([0.0, 100.0]), np.zeros(3)

    def difference(pairs: np.ndarray, others: np.ndarray) -> float:
        assert (pairs[:, 1] - pairs[:, 0] == 100).all()
        assert (pairs.shape, others.shape) == ((7, 2), (3,))
        return float(pairs[:, 1].mean() - pairs[:, 0].mean() + others.sum())

    interval = bootstrap(difference, pairs, others, resamples=5)
    assert (interval.low, interval.value, interval.high) == (100, 100, 100)


def test_it_is_the_same_each_time() -> None:
    values = np.random.default_rng(5).normal(size=13)
    assert bootstrap(np.mean, values) == bootstrap(np.mean, values) != bootstrap(np.mean, values, seed=1)
