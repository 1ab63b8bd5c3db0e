"""A codebook of vectors by k-means++ (Arthur and Vassilvitskii 2007) and Lloyd's iterations; deterministic."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenreel.tokenizers.quantizers.nearest import nearest_indices

ITERATIONS = 50  # of Lloyd's, at most
SEED = 0  # of the draws of k-means++


def kmeans_codebook(vectors: Tensor, codebook_size: int) -> Tensor:
    """float32 [n, d] -> float32 [K, d]; where fewer vectors are distinct than there are codes, the last is repeated."""
    book = _seeds(vectors, codebook_size)
    before = None
    for _ in range(ITERATIONS):
        nearest = nearest_indices(vectors, book)
        if before is not None and torch.equal(nearest, before):
            break
        book, before = _means(vectors, nearest, book), nearest
    return book


def _seeds(vectors: Tensor, codebook_size: int) -> Tensor:
    """Vectors drawn one after the other, each with a probability that grows as the squared distance to those before."""
    generator = np.random.default_rng(SEED)
    book = vectors[:1].repeat(codebook_size, 1)
    book[0] = vectors[int(generator.integers(len(vectors)))]
    distance = (vectors - book[0]).square().sum(1).double()
    for code in range(1, codebook_size):
        total = distance.cumsum(0)
        if total[-1] == 0:  # every vector is a code by now
            book[code:] = book[code - 1]
            break
        place = torch.searchsorted(total, float(total[-1]) * generator.random(), right=True)
        book[code] = vectors[min(int(place), len(vectors) - 1)]
        distance = torch.minimum(distance, (vectors - book[code]).square().sum(1).double())
    return book


def _means(vectors: Tensor, nearest: Tensor, book: Tensor) -> Tensor:
    """The mean of each code's vectors; a code that none chose stays where it is."""
    sums = torch.zeros(book.shape, dtype=torch.float64).index_add_(0, nearest, vectors.double())
    counts = torch.bincount(nearest, minlength=len(book))[:, None]
    return torch.where(counts > 0, (sums / counts.clamp(min=1)).float(), book)
