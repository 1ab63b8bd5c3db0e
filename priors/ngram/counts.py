"""Counts of tokens and pairs of tokens of one codebook, and the smoothed probabilities that follow from them.

N clips, K codebook size.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PSEUDOCOUNT = 0.5  # added to each token's count, so that none is impossible (Krichevsky and Trofimov 1981)
_HELD_OUT_EVERY = 5  # one clip in so many, the last of each batch: neighbours in a cache often show the same scene
_DISCOUNTS = tuple(i / 20 for i in range(1, 20))  # counts, 0.05 ... 0.95


class UnigramCounts:
    """How often each token occurs."""

    def __init__(self, size: int) -> None:
        self.size = size  # K
        self.counts = torch.zeros(size, dtype=torch.long)

    @staticmethod
    def rows(size: int) -> int:
        """The number of rows of `probabilities` for a codebook of `size`."""
        return 1

    def add(self, indices: Tensor) -> None:
        """Counts tokens, int64 [N, t, locations]; those at a location follow one another."""
        self.counts += torch.bincount(indices.flatten(), minlength=self.size)

    def probabilities(self) -> Tensor:
        """float64 [1, K]: the smoothed probability of each token."""
        counts = self.counts.double() + _PSEUDOCOUNT
        return (counts / counts.sum())[None]


class BigramCounts(UnigramCounts):
    """How often each token follows each token one step later."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.fitted = _Pairs(size)
        self.held_out = _Pairs(size)

    @staticmethod
    def rows(size: int) -> int:
        return size + 1

    def add(self, indices: Tensor) -> None:
        super().add(indices)
        fitted = len(indices) - (max(len(indices) // _HELD_OUT_EVERY, 1) if len(indices) > 1 else 0)
        pairs = indices[:, :-1] * self.size + indices[:, 1:]
        self.fitted.add(pairs[:fitted])
        self.held_out.add(pairs[fitted:])

    def probabilities(self) -> Tensor:
        """float64 [K + 1, K]: after each token, and after none (the unigram probabilities).

        Interpolated Kneser-Ney smoothing (1995, "Improved backing-off for m-gram language modeling"): every pair's
        count is lowered by a discount, and the probability mass that this frees in a row goes to all tokens, in
        proportion to the number of different tokens that they follow. That beats mixing with the unigram probabilities:
        a background token is frequent, but follows little other than itself. The discount is the one under which
        held-out clips are the most likely; then these are counted as well.
        """
        discount = max(_DISCOUNTS, key=lambda d: self.fitted.log_likelihood(self.held_out, d))
        self.fitted.merge(self.held_out)
        return torch.cat([self.fitted.smoothed(discount), super().probabilities()])


class _Pairs:
    """Sparse counts of pairs of tokens: most of the K x K never occur."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.keys = torch.zeros(0, dtype=torch.long)  # ascending; before * K + after
        self.counts = torch.zeros(0, dtype=torch.long)

    def add(self, pairs: Tensor) -> None:
        self._include(*pairs.flatten().unique(return_counts=True))

    def merge(self, other: _Pairs) -> None:
        self._include(other.keys, other.counts)

    def _include(self, keys: Tensor, counts: Tensor) -> None:
        merged, index = torch.cat([self.keys, keys]).unique(return_inverse=True)
        self.counts = torch.zeros(len(merged), dtype=torch.long).index_add(0, index, torch.cat([self.counts, counts]))
        self.keys = merged

    def log_likelihood(self, others: _Pairs, discount: float) -> float:
        """The log-likelihood in nats of `others` under the probabilities of `smoothed`."""
        before, after = others.keys // self.size, others.keys % self.size
        discounted, freed = self._discounted(discount)
        probabilities = freed[before] * self._continuation()[after]
        if len(self.keys):
            index = torch.searchsorted(self.keys, others.keys).clamp(max=len(self.keys) - 1)
            probabilities += torch.where(self.keys[index] == others.keys, discounted[index], 0)
        return float((others.counts * probabilities.log()).sum())

    def smoothed(self, discount: float) -> Tensor:
        """float64 [K, K]: the probabilities of a token after each token."""
        discounted, freed = self._discounted(discount)
        table = freed[:, None] * self._continuation()
        table.view(-1)[self.keys] += discounted
        return table

    def _discounted(self, discount: float) -> tuple[Tensor, Tensor]:
        """The discounted probability of each pair, and the mass that is freed after each token [K], 1 after one that
        never occurred.
        """
        before = self.keys // self.size
        totals = torch.zeros(self.size, dtype=torch.double).index_add(0, before, self.counts.double())
        discounted = (self.counts - discount) / totals[before]
        return discounted, 1 - torch.zeros_like(totals).index_add(0, before, discounted)

    def _continuation(self) -> Tensor:
        """float64 [K]: the fraction of the different pairs that have each token as the second."""
        counts = torch.bincount(self.keys % self.size, minlength=self.size) + _PSEUDOCOUNT
        return counts / counts.sum()
