"""Generated clips: how much they move, how much they differ from one another, and clips that need no model."""

from __future__ import annotations

import math

import numpy as np


def motion(clips: np.ndarray) -> float:
    """Mean absolute difference of a channel between consecutive frames of uint8 [..., T, H, W, 3], of 255."""
    return float(np.abs(np.diff(clips.astype(np.int16), axis=-4)).mean())


def cross_fade(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
    """uint8 [..., H, W, 3] each -> uint8 [..., frames, H, W, 3]: linear, from `start` to `end`, both included."""
    share = np.linspace(0, 1, frames)[:, None, None, None]
    mixed = (1 - share) * start[..., None, :, :, :] + share * end[..., None, :, :, :]
    return np.rint(mixed).astype(np.uint8)


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
