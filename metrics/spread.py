"""How much clips differ from one another."""

from __future__ import annotations

import math

import numpy as np


class Spread:
    """Accumulates clips; `compute` says how much they differ from one another. Memory is that of two clips.

    Sums of 8-bit pixels are exact, so the clips may be divided in any way among processes.
    """

    def __init__(self) -> None:
        self._clips = 0
        self._sum: np.ndarray | int = 0  # by pixel
        self._squares: np.ndarray | int = 0

    def update(self, clips: np.ndarray) -> None:
        """Adds clips, uint8 [N, T, H, W, 3]."""
        pixels = clips.astype(np.int64)
        self._clips += len(clips)
        self._sum = self._sum + pixels.sum(0)
        self._squares = self._squares + np.square(pixels).sum(0)

    def merge(self, other: Spread) -> None:
        self._clips += other._clips
        self._sum = self._sum + other._sum
        self._squares = self._squares + other._squares

    def compute(self) -> float:
        """The root of the mean over pixels of the variance over clips, of 255; 0 of equal clips, NaN of none."""
        if not self._clips:
            return math.nan
        variance = self._squares / self._clips - np.square(self._sum / self._clips)
        return math.sqrt(max(0.0, float(np.mean(variance))))


def spread(clips: np.ndarray) -> float:
    """`Spread` of clips, uint8 [N, T, H, W, 3]."""
    accumulated = Spread()
    accumulated.update(clips)
    return accumulated.compute()
