"""Nearest codebook vector by Euclidean distance, in chunks of rows: the N x K matrix of distances is never stored."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 256  # rows; 256 x 8192 scores are 8 MB, which fits in cache. On the CPU measured, 128 to 512 are equally fast


@torch.no_grad()
def nearest_indices(vectors: Tensor, codebook: Tensor) -> Tensor:
    """float32 [N, d] and [K, d] -> int64 [N], the index of the nearest codebook vector of each.

    Every chunk has the same number of rows (the last is padded), so that a vector's score does not depend on the number
    of vectors: matrix products round differently for different shapes.
    """
    score = _scorer(codebook)
    indices = torch.empty(len(vectors), dtype=torch.long, device=vectors.device)
    for first in range(0, len(vectors), CHUNK):
        chunk = vectors[first : first + CHUNK]
        rows = len(chunk)
        if rows < CHUNK:
            chunk = torch.cat([chunk, chunk.new_zeros(CHUNK - rows, chunk.shape[1])])
        indices[first : first + rows] = score(chunk).min(dim=1).indices[:rows]  # faster than argmin on CPU
    return indices


def _scorer(codebook: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of vectors [n, d] that returns |e|^2 / 2 - x.e [n, K]: |x - e|^2 / 2 without the constant |x|^2 / 2.

    On a CPU the codebook is packed for oneDNN, whose product is 2.3 times as fast as torch's own on Zen 5.
    """
    half_norms = codebook.square().sum(1).mul_(0.5)
    if codebook.device.type == "cpu" and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(-codebook, CHUNK)
        return lambda chunk: torch.ops.mkldnn._linear_pointwise(chunk, packed, half_norms, "none", [], "")
    return lambda chunk: torch.addmm(half_norms, chunk, codebook.T, alpha=-1)
