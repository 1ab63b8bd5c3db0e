"""Usage of codebooks, counted over a data set: the perplexity of a batch says little about it.

Does not import torch, so that caches can be inspected without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MIN_USED = 0.5  # fraction of the K codes; below it many bits of an index are wasted
MIN_PERPLEXITY = 0.1  # fraction of K; below it a few codes make up nearly all tokens
MIN_ENTROPY = 0.25  # fraction of log2 K; below it a codebook has collapsed
MASS_PERCENT = 80  # LVT appendix A: 218 of 512 codes hold this much of the probability mass on BAIR


@dataclass(frozen=True)
class CodebookUsage:
    """Usage of one codebook."""

    counted: int  # tokens
    codebook_size: int  # K
    used: float  # fraction of the K codes that occur
    entropy: float  # bits/code of the frequencies, the loss of a unigram prior
    perplexity: float  # 2^entropy, the size of an evenly used codebook with the same entropy; 1..K
    holding_80_percent: int  # least number of codes that make up 80 % of the tokens (LVT appendix A); 1..K

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> CodebookUsage:
        """The usage by counts [K] of codes. Raises ValueError if nothing was counted."""
        if counts.sum() == 0:
            raise ValueError("counts are all zero: count tokens first")
        frequencies = counts[counts > 0] / counts.sum()
        entropy = float(-(frequencies * np.log2(frequencies)).sum())
        return cls(
            counted=int(counts.sum()),
            codebook_size=len(counts),
            used=len(frequencies) / len(counts),
            entropy=entropy,
            perplexity=2.0**entropy,
            holding_80_percent=_fewest_codes(counts, MASS_PERCENT),
        )

    @property
    def collapsed(self) -> bool:
        """Whether the entropy is too low for a prior trained on these tokens to learn much."""
        return self.entropy < MIN_ENTROPY * math.log2(self.codebook_size)

    @property
    def alarm(self) -> str | None:
        """A warning if few codes are in use, else None.

        Where the tokens are too few to use all codes, the limits are lower: by the fraction that an even choice uses.
        """
        possible = 1 - (1 - 1 / self.codebook_size) ** self.counted
        if self.used >= MIN_USED * possible and self.perplexity >= MIN_PERPLEXITY * self.codebook_size * possible:
            return None
        return (
            f"only {self.used:.0%} of {self.codebook_size} codes are in use, perplexity {self.perplexity:.1f} "
            f"({self.counted:,} tokens counted)"
        )


class CodeCounter:
    """Counts the tokens of one stream over a data set, in each of its q codebooks."""

    def __init__(self, codebook_size: int, codebooks: int) -> None:
        self.counts = np.zeros((codebooks, codebook_size), dtype=np.int64)

    def update(self, tokens: np.ndarray) -> None:
        """Adds integers [..., q] in [0, K)."""
        codebooks, size = self.counts.shape
        if tokens.shape[-1] != codebooks:
            raise ValueError(f"tokens (shape {tokens.shape}) must end in the number of codebooks (={codebooks})")
        for codebook, counts in enumerate(self.counts):
            counts += np.bincount(tokens[..., codebook].ravel(), minlength=size)

    def merge(self, other: CodeCounter) -> None:
        """Adds what another one has counted of the same codebooks."""
        self.counts += other.counts

    def usage(self) -> tuple[CodebookUsage, ...]:
        """The usage of each codebook. Raises ValueError if nothing was counted."""
        return tuple(CodebookUsage.from_counts(counts) for counts in self.counts)


def _fewest_codes(counts: np.ndarray, percent: int) -> int:
    """Least number of codes that make up `percent` of all tokens, in integers: a rounding error would add a code."""
    cumulative = np.cumsum(np.sort(counts)[::-1], dtype=np.int64)
    return int(np.searchsorted(cumulative * 100, cumulative[-1] * percent)) + 1
