"""How much several samples of the same conditions differ. N conditions, S samples of each."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def pixel_diversity(samples: np.ndarray) -> np.ndarray:
    """uint8 [N, S, T, H, W, 3] -> float64 [N]: mean absolute difference of a channel, of 255, over pairs of samples.

    CCVS's DIV (arXiv 2107.08037, section 4). Raises ValueError for fewer than two samples.
    """
    pixels = samples.astype(np.int16)
    distances = [np.abs(pixels[:, a] - pixels[:, b]).mean((1, 2, 3, 4)) for a, b in _pairs(samples.shape[1])]
    return np.asarray(np.mean(distances, axis=0))


def feature_diversity(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """[N, S, D] -> float64 [N]: mean of 1 - cosine over pairs of samples, from 0 (equal) to 2.

    That of "From here to there" (arXiv 1905.10240, table 2), there in features of FVD's network. Features of ReLUs are
    never negative, so that all of them point the same way: `centre` [D], the mean of true clips, is the origin. Raises
    ValueError for fewer than two samples.
    """
    centred = features - centre
    units = centred / np.linalg.norm(centred, axis=-1, keepdims=True)
    return 1 - np.mean([(units[:, a] * units[:, b]).sum(-1) for a, b in _pairs(features.shape[1])], axis=0)


def mean_clip(samples: np.ndarray) -> np.ndarray:
    """uint8 [N, S, T, H, W, 3] -> uint8 [N, T, H, W, 3]: what differs between samples is blurred in it."""
    return np.rint(samples.mean(1)).astype(np.uint8)


def _pairs(samples: int) -> list[tuple[int, int]]:
    if samples < 2:
        raise ValueError(f"samples (={samples} of each condition) must be at least two to differ")
    return list(combinations(range(samples), 2))
