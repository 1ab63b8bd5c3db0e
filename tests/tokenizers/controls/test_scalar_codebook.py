"""The best K numbers, against every way to cut the sorted numbers into K intervals."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from tokenreel.tokenizers.controls.scalar_codebook import SUMMARY, nearest_scalars, scalar_codebook


def loss(values: np.ndarray, book: np.ndarray) -> float:
    """By brute force over all pairs."""
    return float(np.square(values[:, None] - book[None]).min(axis=1).sum())


def best_loss(values: np.ndarray, codebook_size: int) -> float:
    ordered = np.sort(values)
    cuts = combinations(range(1, len(values)), codebook_size - 1)
    parts = ([ordered[a:b] for a, b in pairwise([0, *cut, len(values)])] for cut in cuts)
    return min(sum(float(np.square(part - part.mean()).sum()) for part in cut) for cut in parts)


@pytest.mark.parametrize("codebook_size", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_no_codebook_is_better(codebook_size: int, seed: int) -> None:
    values = np.random.default_rng(seed).exponential(size=13).round(1) + 100  # some come twice
    book = scalar_codebook(values, codebook_size)
    assert loss(values, book) == pytest.approx(best_loss(values, codebook_size), abs=1e-9)
    assert (np.diff(book) > 0).all()


def test_of_many_numbers_it_is_a_fixed_point_and_near_the_optimum() -> None:
    """Of a uniform distribution the best codebook is even: its loss is n / 12 K^2."""
    values = np.random.default_rng(0).random(7 * SUMMARY)
    book = scalar_codebook(values, 31)
    indices = nearest_scalars(values, book)
    np.testing.assert_allclose([values[indices == code].mean() for code in range(31)], book, atol=1e-5)
    assert loss(values, book) == pytest.approx(len(values) / (12 * 31**2), rel=0.03)


def test_the_nearest_is_the_nearest() -> None:
    generator = np.random.default_rng(0)
    book, values = np.sort(generator.normal(size=17)), generator.normal(size=(5, 7)) * 2
    expected = np.abs(values[..., None] - book).argmin(axis=-1)
    np.testing.assert_array_equal(nearest_scalars(values, book), expected)


def test_fewer_numbers_than_codes_come_back_exactly() -> None:
    values = np.array([0.5, 0.25, 0.5, 3.0])
    book = scalar_codebook(values, 7)
    assert book.tolist() == [0.25, 0.5, 3, 3, 3, 3, 3]
    np.testing.assert_array_equal(book[nearest_scalars(values, book)], values)
