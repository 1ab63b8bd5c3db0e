"""A codebook of vectors by k-means++ (Arthur and Vassilvitskii 2007) and Lloyd's algorithm; deterministic."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenreel.tokenizers.quantizers.nearest import nearest_indices

MAX_ITERATIONS = 50  # of Lloyd's algorithm
SEED = 0  # of the random numbers of k-means++


def kmeans_codebook(vectors: Tensor, codebook_size: int) -> Tensor:
    """float32 [n, d] -> float32 [K, d]; with fewer than K distinct vectors, the last is repeated."""
    codebook = _kmeans_plus_plus(vectors, codebook_size)
    previous = None
    for _ in range(MAX_ITERATIONS):
        nearest = nearest_indices(vectors, codebook)
        if previous is not None and torch.equal(nearest, previous):
            break
        codebook, previous = _means(vectors, nearest, codebook), nearest
    return codebook


def _kmeans_plus_plus(vectors: Tensor, codebook_size: int) -> Tensor:
    """Samples vectors in turn, each with a probability proportional to its squared distance to those before."""
    generator = np.random.default_rng(SEED)
    codebook = vectors[:1].repeat(codebook_size, 1)
    codebook[0] = vectors[int(generator.integers(len(vectors)))]
    distance = (vectors - codebook[0]).square().sum(1).double()
    for code in range(1, codebook_size):
        total = distance.cumsum(0)
        if total[-1] == 0:  # every distinct vector is in the codebook
            codebook[code:] = codebook[code - 1]
            break
        index = torch.searchsorted(total, float(total[-1]) * generator.random(), right=True)
        codebook[code] = vectors[min(int(index), len(vectors) - 1)]
        distance = torch.minimum(distance, (vectors - codebook[code]).square().sum(1).double())
    return codebook


def _means(vectors: Tensor, nearest: Tensor, codebook: Tensor) -> Tensor:
    """The mean of each code's vectors; an unused code is unchanged."""
    sums = torch.zeros(codebook.shape, dtype=torch.float64).index_add_(0, nearest, vectors.double())
    counts = torch.bincount(nearest, minlength=len(codebook))[:, None]
    return torch.where(counts > 0, (sums / counts.clamp(min=1)).float(), codebook)
