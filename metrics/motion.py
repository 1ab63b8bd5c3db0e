"""How much a video changes from frame to frame."""

from __future__ import annotations

import numpy as np


def motion(clips: np.ndarray) -> float:
    """Mean absolute difference of a channel between consecutive frames of uint8 [..., T, H, W, 3], of 255.

    0 for a still video. Noise and flicker count as motion: compare with that of true clips.
    """
    return float(np.abs(np.diff(clips.astype(np.int16), axis=-4)).mean())
