"""The first and the last layer of a prior whose positions take codes from several codebooks.

Each codebook has its own embeddings and its own outputs, laid out one after the other. Knows which codebook each
position of the order uses, and no streams, times or places.

B rows, L positions of the order, n codes fed at once, D width, K codes of the largest codebook.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenEmbedding(nn.Module):
    """Codes -> vectors. `sizes` are the codes of each codebook, null codes included; `book` [L] is each position's."""

    first: Tensor  # int64 [L], the row of code 0 at each position

    def __init__(self, sizes: Sequence[int], book: Tensor, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes), width)
        ends = torch.as_tensor(sizes, device="cpu").cumsum(0)
        self.register_buffer("first", (ends - torch.as_tensor(sizes, device="cpu"))[book], persistent=False)

    def forward(self, indices: Tensor, position: Tensor | slice) -> Tensor:
        """codes [B, n] at positions [B, n] or a range of the order -> [B, n, D]."""
        return self.table(indices + self.first[position])


class TokenOutput(nn.Module):
    """Vectors -> probabilities over the codebook of the position. `sizes` are the codes of each codebook."""

    by_book: Tensor  # int64 [L], positions sorted by codebook
    back: Tensor  # int64 [L], undoes it
    book: Tensor  # int64 [L]
    columns: Tensor  # int64 [books, K], the outputs of each codebook, filled up with any
    outside: Tensor  # float32 [books, K], 0 in the codebook and -inf where filled up

    def __init__(self, sizes: Sequence[int], book: Tensor, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(sizes), bias=False)
        self.sizes = list(sizes)
        self.counts = torch.bincount(book, minlength=len(sizes)).tolist()
        by_book = book.argsort(stable=True)
        size = torch.as_tensor(sizes, device="cpu")[:, None]
        code = torch.arange(max(sizes), device="cpu")
        tables = {
            "by_book": by_book,
            "back": by_book.argsort(),
            "book": book,
            "columns": torch.where(code < size, code + size.cumsum(0) - size, 0),
            "outside": torch.where(code < size, 0.0, -torch.inf),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def nats(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """Minus log-probability [B, L], float32, of `indices` [B, L] after `hidden` [B, L, D].

        One codebook at a time, each over its own positions only, so no [B, L, V] over all codebooks is ever held.
        """
        vectors = hidden[:, self.by_book].split(self.counts, 1)
        targets = indices[:, self.by_book].split(self.counts, 1)
        weights = self.linear.weight.split(self.sizes)
        nats = [_nats(x, y, weight) for x, y, weight in zip(vectors, targets, weights, strict=True)]
        return torch.cat(nats, 1)[:, self.back]

    def log_probs(self, outputs: Tensor, position: Tensor) -> Tensor:
        """Log-probabilities [..., K], float32, of the code at `position` [...] from `outputs` [..., V] of `linear`."""
        book = self.book[position]
        return (outputs.float().gather(-1, self.columns[book]) + self.outside[book]).log_softmax(-1)


def _nats(hidden: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    logits = F.linear(hidden, weight).float()
    return F.cross_entropy(logits.flatten(0, 1), indices.flatten(), reduction="none").view_as(indices)
