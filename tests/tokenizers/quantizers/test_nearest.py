"""The chunked look-up against brute force, without the N x K matrix."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tokenreel.tokenizers.quantizers.nearest import CHUNK, nearest_indices


@pytest.mark.parametrize(("rows", "size", "dim"), [(1, 2, 1), (7, 13, 5), (CHUNK, 11, 3), (2 * CHUNK + 17, 101, 31)])
def test_against_brute_force(rows, size, dim):
    """Distances in float64; the chosen one may be beaten by a rounding error only."""
    vectors, codebook = torch.randn(rows, dim) + 3.0, torch.randn(size, dim)
    distances = torch.cdist(vectors.double(), codebook.double())
    chosen = distances.gather(1, nearest_indices(vectors, codebook)[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.amin(1), rtol=1e-5, atol=1e-5)


def test_codebook_vectors_have_their_own_index():
    codebook = torch.randn(CHUNK + 89, 13)
    assert torch.equal(nearest_indices(codebook, codebook), torch.arange(len(codebook)))


def test_a_row_does_not_depend_on_the_others():
    """Bit-equal scores: the codebook holds each vector twice, so that any difference in rounding would show in ties."""
    half = torch.randn(53, 29)
    codebook, vectors = torch.cat([half, half + 1e-7]), torch.randn(CHUNK + 71, 29)
    together = nearest_indices(vectors, codebook)
    alone = torch.cat([nearest_indices(row[None], codebook) for row in vectors])
    assert torch.equal(together, alone)


def test_the_matrix_of_distances_is_never_stored():
    largest = 0

    class AllocationMode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            output = func(*args, **(kwargs or {}))
            for tensor in output if isinstance(output, tuple | list) else [output]:
                if isinstance(tensor, torch.Tensor) and not tensor.is_mkldnn:  # the packed codebook has no storage
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return output

    vectors, codebook = torch.randn(7 * CHUNK, 3), torch.randn(211, 3)
    with AllocationMode():
        nearest_indices(vectors, codebook)
    assert largest <= 4 * CHUNK * 211
