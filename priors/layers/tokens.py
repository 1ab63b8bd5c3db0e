"""Input embedding and output layer of a prior whose positions take tokens from several codebooks.

Each codebook has its own embeddings and its own outputs, one after the other in a single table.

B rows, L positions of the order, n tokens fed at once, D width, K size of the largest codebook, V sum of all sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenEmbedding(nn.Module):
    """Tokens -> vectors.

    `sizes` are the numbers of tokens of the codebooks, unconditional tokens included; `codebook_index`, int64 [L], says
    which codebook each position uses.
    """

    offset: Tensor  # int64 [L], the row of token 0 at each position

    def __init__(self, sizes: Sequence[int], codebook_index: Tensor, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes), width)
        ends = torch.as_tensor(sizes, device="cpu").cumsum(0)
        offset = (ends - torch.as_tensor(sizes, device="cpu"))[codebook_index]
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, indices: Tensor, position: Tensor | slice) -> Tensor:
        """Tokens [B, n] at positions [B, n], or at a range of the order -> [B, n, D]."""
        return self.table(indices + self.offset[position])


class TokenOutput(nn.Module):
    """Vectors -> probabilities over the codebook of the position.

    `sizes` are the sizes of the codebooks; `codebook_index`, int64 [L], says which one each position uses.
    """

    by_codebook: Tensor  # int64 [L], positions sorted by codebook
    inverse: Tensor  # int64 [L], the inverse permutation
    codebook_index: Tensor  # int64 [L]
    columns: Tensor  # int64 [codebooks, K], the outputs of each codebook, padded with any
    padding: Tensor  # float32 [codebooks, K], 0 in the codebook and -inf where padded

    def __init__(self, sizes: Sequence[int], codebook_index: Tensor, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(sizes), bias=False)
        self.sizes = list(sizes)
        self.counts = torch.bincount(codebook_index, minlength=len(sizes)).tolist()
        by_codebook = codebook_index.argsort(stable=True)
        size = torch.as_tensor(sizes, device="cpu")[:, None]
        token = torch.arange(max(sizes), device="cpu")
        tables = {
            "by_codebook": by_codebook,
            "inverse": by_codebook.argsort(),
            "codebook_index": codebook_index,
            "columns": torch.where(token < size, token + size.cumsum(0) - size, 0),
            "padding": torch.where(token < size, 0.0, -torch.inf),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def nats(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """Negative log-probabilities [B, L], float32, of `indices` [B, L] given `hidden` [B, L, D].

        Each codebook is computed over its own positions only, so that no [B, L, V] is held.
        """
        vectors = hidden[:, self.by_codebook].split(self.counts, 1)
        targets = indices[:, self.by_codebook].split(self.counts, 1)
        weights = self.linear.weight.split(self.sizes)
        nats = [_nats(x, y, weight) for x, y, weight in zip(vectors, targets, weights, strict=True)]
        return torch.cat(nats, 1)[:, self.inverse]

    def log_probs(self, outputs: Tensor, position: Tensor) -> Tensor:
        """Log-probabilities [..., K], float32, of the token at `position` [...] from `outputs` [..., V] of `linear`."""
        codebook = self.codebook_index[position]
        return (outputs.float().gather(-1, self.columns[codebook]) + self.padding[codebook]).log_softmax(-1)


def _nats(hidden: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    logits = F.linear(hidden, weight).float()
    return F.cross_entropy(logits.flatten(0, 1), indices.flatten(), reduction="none").view_as(indices)
