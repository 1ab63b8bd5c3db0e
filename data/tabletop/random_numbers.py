"""Random numbers of Tabletop: Philox keyed by (seed, stream), so a clip depends on these two numbers alone.

Only the generator's raw 64-bit words are used: numpy guarantees that these never change, but not its other methods.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TRAY_STREAM = 2**64 - 1  # what all clips of a seed share; clip `index` has stream `index`


class RandomNumbers:
    """A sequence of random numbers that (seed, stream) determines."""

    def __init__(self, seed: int, stream: int) -> None:
        self._words = np.random.Philox(key=np.array([seed, stream], np.uint64))

    def uniforms(self, count: int) -> np.ndarray:
        """float64 [count] in [0, 1), 53 random bits each."""
        words: np.ndarray = self._words.random_raw(count)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """One number in [low, high)."""
        return low + (high - low) * float(self.uniforms(1)[0])

    def below(self, count: int) -> int:
        """One of 0 ... count - 1, all equally likely."""
        return int(float(self.uniforms(1)[0]) * count)

    def subset(self, count: int, members: Sequence[int]) -> list[int]:
        """`count` different members in random order."""
        left = list(members)
        return [left.pop(self.below(len(left))) for _ in range(count)]
