"""The optimal K scalars, against all partitions of the sorted values into K intervals."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from tokenreel.tokenizers.controls.scalar_codebook import SUMMARY, nearest_scalars, scalar_codebook


def loss(values: np.ndarray, codebook: np.ndarray) -> float:
    """By brute force over all pairs."""
    return float(np.square(values[:, None] - codebook[None]).min(axis=1).sum())


def best_loss(values: np.ndarray, codebook_size: int) -> float:
    ordered = np.sort(values)
    cuts = combinations(range(1, len(values)), codebook_size - 1)
    parts = ([ordered[a:b] for a, b in pairwise([0, *cut, len(values)])] for cut in cuts)
    return min(sum(float(np.square(part - part.mean()).sum()) for part in cut) for cut in parts)


@pytest.mark.parametrize("codebook_size", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_no_codebook_is_better(codebook_size: int, seed: int) -> None:
    values = np.random.default_rng(seed).exponential(size=13).round(1) + 100  # some are repeated
    codebook = scalar_codebook(values, codebook_size)
    assert loss(values, codebook) == pytest.approx(best_loss(values, codebook_size), abs=1e-9)
    assert (np.diff(codebook) > 0).all()


def test_for_many_values_it_is_a_fixed_point_near_the_optimum() -> None:
    """The optimal codebook of a uniform distribution is even: its loss is n / 12 K^2."""
    values = np.random.default_rng(0).random(7 * SUMMARY)
    codebook = scalar_codebook(values, 31)
    indices = nearest_scalars(values, codebook)
    np.testing.assert_allclose([values[indices == code].mean() for code in range(31)], codebook, atol=1e-5)
    assert loss(values, codebook) == pytest.approx(len(values) / (12 * 31**2), rel=0.03)


def test_nearest_equals_brute_force() -> None:
    generator = np.random.default_rng(0)
    codebook, values = np.sort(generator.normal(size=17)), generator.normal(size=(5, 7)) * 2
    expected = np.abs(values[..., None] - codebook).argmin(axis=-1)
    np.testing.assert_array_equal(nearest_scalars(values, codebook), expected)


def test_fewer_values_than_codes_are_exact() -> None:
    values = np.array([0.5, 0.25, 0.5, 3.0])
    codebook = scalar_codebook(values, 7)
    assert codebook.tolist() == [0.25, 0.5, 3, 3, 3, 3, 3]
    np.testing.assert_array_equal(codebook[nearest_scalars(values, codebook)], values)
