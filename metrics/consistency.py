"""Temporal consistency: flicker of a decoded video where the true video is static."""

from __future__ import annotations

import numpy as np


class Flicker:
    """Accumulates over clips; `compute` returns the mean over all static pixels. Memory does not grow with the clips.

    A pixel is static between two frames if the true video is equal in both, in every channel.
    """

    def __init__(self) -> None:
        self._change, self._static = 0.0, 0

    def update(self, real: np.ndarray, decoded: np.ndarray) -> None:
        """Adds a clip, both uint8 [T, H, W, 3], or several, [N, T, H, W, 3]. Raises ValueError for other arrays."""
        if real.shape != decoded.shape or real.dtype != np.uint8 or decoded.dtype != np.uint8:
            raise ValueError(
                f"real ({real.dtype} {real.shape}) and decoded ({decoded.dtype} {decoded.shape}) must be uint8 of the "
                "same shape"
            )
        static = (np.diff(real, axis=-4) == 0).all(-1)  # uint8 differences wrap around, but 0 stays 0
        change = np.abs(np.diff(decoded.astype(np.int16), axis=-4)).mean(-1)
        self._change += float(change[static].sum())
        self._static += int(static.sum())

    def compute(self) -> float:
        """Mean absolute difference of a channel between frames, of 255; NaN if no pixel is static."""
        return self._change / self._static if self._static else float("nan")
