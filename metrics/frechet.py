"""The Frechet distance between the normal distributions fitted to two sets of features."""

from __future__ import annotations

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Frechet (2-Wasserstein) distance of the normal distributions fitted to features [n, D] and [m, D]:

        |mean_1 - mean_2|^2 + trace(C_1 + C_2 - 2 (C_1^(1/2) C_2 C_1^(1/2))^(1/2))

    with the unbiased covariances C_1, C_2 (Dowson and Landau 1982). Both roots are of symmetric matrices, from their
    eigenvalues, so that singular covariances give no complex numbers. It grows as sets get smaller: compare sets of one
    size only. Raises ValueError for fewer than two rows.
    """
    for features in (first, second):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != first.shape[1]:
            raise ValueError(f"features (shapes {first.shape}, {second.shape}) must be [n, D], with two rows or more")
    shift = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    covariance, other = _covariance(first), _covariance(second)
    root = _root(covariance)
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0))
    return max(0.0, float(shift @ shift + np.trace(covariance) + np.trace(other) - 2 * cross.sum()))


def _covariance(features: np.ndarray) -> np.ndarray:
    """[n, D] -> float64 [D, D], unbiased."""
    return np.atleast_2d(np.cov(features, rowvar=False, dtype=np.float64))


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)
