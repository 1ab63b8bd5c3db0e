"""How much of a codebook is in use. Counted over a data set: a batch's perplexity says little about that.

Knows nothing of what the codes mean. No torch, so that caches can be inspected without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MIN_USED = 0.5  # part of the codes; below it a tokenizer pays for codes that it does not have
MIN_EVEN = 0.1  # perplexity as part of K; a few codes do all the work below it
MIN_BITS = 0.25  # entropy as part of log2 K; below it a codebook carries next to nothing: it has collapsed
MASS_PERCENT = 80  # LVT appendix A: 218 of 512 codes hold so much of the probability mass on BAIR


@dataclass(frozen=True)
class CodebookUsage:
    """Of one codebook (slice)."""

    codebook_size: int  # K
    used: float  # part of the K codes that occur at all
    entropy: float  # bits a code, of the frequencies; what a prior that knows only these pays
    perplexity: float  # 2^entropy, the size of an evenly used codebook as rich; 1..K
    holding_80_percent: int  # the fewest codes that make 80 % of all that were counted (LVT appendix A); 1..K

    @property
    def collapsed(self) -> bool:
        """Whether it carries so little that a prior trained on such codes could learn next to nothing."""
        return self.entropy < MIN_BITS * math.log2(self.codebook_size)

    @property
    def alarm(self) -> str | None:
        """What is wrong, or None."""
        if self.used >= MIN_USED and self.perplexity >= MIN_EVEN * self.codebook_size:
            return None
        return f"only {self.used:.0%} of {self.codebook_size} codes are in use, perplexity {self.perplexity:.1f}"


class CodeCounter:
    """Counts the codes of one stream over a data set: K codes in each of q codebooks."""

    def __init__(self, codes: int, codebooks: int) -> None:
        self.counts = np.zeros((codebooks, codes), dtype=np.int64)

    def update(self, codes: np.ndarray) -> None:
        """Integers [..., q] in [0, K)."""
        books, size = self.counts.shape
        if codes.shape[-1] != books:
            raise ValueError(f"codes (shape {codes.shape}) must end in the number of codebooks (={books})")
        for book, count in enumerate(self.counts):
            count += np.bincount(codes[..., book].ravel(), minlength=size)

    def use(self) -> tuple[CodebookUsage, ...]:
        """Of each codebook."""
        return tuple(codebook_use(count) for count in self.counts)


def codebook_use(counts: np.ndarray) -> CodebookUsage:
    """Counts [K] of one codebook. Raises ValueError if nothing was counted."""
    if counts.sum() == 0:
        raise ValueError("counts are all zero: count some codes first")
    frequencies = counts[counts > 0] / counts.sum()
    entropy = float(-(frequencies * np.log2(frequencies)).sum())
    return CodebookUsage(
        codebook_size=len(counts),
        used=len(frequencies) / len(counts),
        entropy=entropy,
        perplexity=2.0**entropy,
        holding_80_percent=_fewest_holding(counts, MASS_PERCENT),
    )


def _fewest_holding(counts: np.ndarray, percent: int) -> int:
    """In whole numbers: a sum of frequencies may miss the mark by a rounding error, which is a code more."""
    held = np.cumsum(np.sort(counts)[::-1], dtype=np.int64)
    return int(np.searchsorted(held * 100, held[-1] * percent)) + 1
