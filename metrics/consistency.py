"""Temporal consistency: how much a decoded video flickers where the true one stands still. Knows videos alone."""

from __future__ import annotations

import numpy as np


class Flicker:
    """Collects clips; `compute` gives the mean over all still pixels. Memory does not grow with the clips.

    A pixel is still between two frames where the true video is the same in both, in every channel.
    """

    def __init__(self) -> None:
        self._change, self._still = 0.0, 0

    def update(self, real: np.ndarray, decoded: np.ndarray) -> None:
        """Both uint8 [T, H, W, 3], or [N, T, H, W, 3] for several clips at once."""
        if real.shape != decoded.shape or real.dtype != np.uint8 or decoded.dtype != np.uint8:
            raise ValueError(
                f"real ({real.dtype} {real.shape}) and decoded ({decoded.dtype} {decoded.shape}) must be uint8 of one "
                "shape"
            )
        still = (np.diff(real, axis=-4) == 0).all(-1)  # uint8 differences wrap around, but 0 stays 0
        change = np.abs(np.diff(decoded.astype(np.int16), axis=-4)).mean(-1)
        self._change += float(change[still].sum())
        self._still += int(still.sum())

    def compute(self) -> float:
        """Mean absolute change of a channel from frame to frame, of 255; NaN where nothing stood still."""
        return self._change / self._still if self._still else float("nan")
