"""The Frechet distance against closed forms, and against torchmetrics'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from tokenreel.metrics.frechet import frechet_distance


def features_with(mean: np.ndarray, covariance: np.ndarray, rows: int = 53) -> np.ndarray:
    """Features whose mean and covariance are exactly these."""
    rng = np.random.default_rng(rows)
    white = rng.normal(size=(rows, len(mean)))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T
    return mean + white @ np.linalg.cholesky(covariance).T


def test_diagonal_covariances() -> None:
    """The sum of the squared differences of means and of standard deviations."""
    means, deviations = np.array([[0.0, 1.0, -2.0], [3.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 0.5], [4.0, 2.0, 3.0]])
    first, second = (features_with(m, np.diag(d**2)) for m, d in zip(means, deviations, strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_covariances_that_commute() -> None:
    """With the same eigenvectors it is the distance of the roots of the eigenvalues."""
    axes, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))
    values = np.array([[1.0, 4.0, 9.0, 0.25, 2.0], [2.0, 1.0, 16.0, 0.5, 2.0]])
    first, second = (features_with(np.zeros(5), (axes * v) @ axes.T) for v in values)
    assert frechet_distance(first, second) == pytest.approx(((values[0] ** 0.5 - values[1] ** 0.5) ** 2).sum())


def test_one_dimension_less_than_the_rows_need() -> None:
    """Singular covariances: the distance of two points and of a point from a line are known."""
    point, line = np.zeros((5, 2)), np.array([[x, 3.0] for x in (-2.0, -1.0, 0.0, 1.0, 2.0)])
    assert frechet_distance(point, point + 2) == pytest.approx(8)
    assert frechet_distance(point, line) == pytest.approx(9 + 2.5)  # the variance of -2 ... 2
    assert frechet_distance(line, line) == pytest.approx(0, abs=1e-9)


def test_the_order_of_sets_and_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(31, 7)), rng.normal(size=(29, 7)) @ rng.normal(size=(7, 7))
    distance = frechet_distance(first, second)
    assert frechet_distance(second, first) == pytest.approx(distance)
    assert frechet_distance(rng.permutation(first), second[::-1]) == pytest.approx(distance)
    assert frechet_distance(first, rng.permutation(first)) == pytest.approx(0, abs=1e-9)


def test_it_is_that_of_torchmetrics() -> None:
    class Identity(nn.Module):
        num_features = 7

        def forward(self, features: Tensor) -> Tensor:
            return features

    rng = np.random.default_rng(7)
    first, second = rng.normal(size=(101, 7)), rng.exponential(size=(89, 7)) @ rng.normal(size=(7, 7))
    reference = FrechetInceptionDistance(feature=Identity()).set_dtype(torch.double)
    reference.update(torch.from_numpy(first), real=True)
    reference.update(torch.from_numpy(second), real=False)
    assert frechet_distance(first, second) == pytest.approx(float(reference.compute()), rel=1e-6)


def test_too_few_rows_and_other_numbers_of_features_are_rejected() -> None:
    features = np.ones((3, 5))
    for other in (features[:1], features[:, :4], features[0]):
        with pytest.raises(ValueError, match="two rows"):
            frechet_distance(features, other)
