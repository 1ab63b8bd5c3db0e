"""True optical flow of a Tabletop clip, computed from its motion, not from its pixels.

Each pixel belongs to the foremost figure that covers its centre; soft edges, where two figures mix, are ignored.
There are no shadows and the light is constant, so what flow does not explain is occlusion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenreel.data.tabletop.figures import Figure

TRAY = -1  # stands for the tray in a map of figure indices


def foremost(figures: Sequence[Figure], frames: slice, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """int16 [T, H, W]: the index of the figure that is visible at points x, y in each of these frames, or TRAY."""
    shape = np.broadcast_shapes((frames.stop - frames.start, 1, 1), x.shape, y.shape)
    visible = np.full(shape, TRAY, np.int16)
    for number, figure in enumerate(figures):
        visible[figure.distance(frames, x, y) <= 0] = number
    return visible


def flow_and_occlusion(
    figures: Sequence[Figure], frames: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Displacement of the surface visible at each pixel of frame t until frame t + 1, and where it is occluded there.

    Returns flow float32 [T-1, H, W, 2], x and y in pixels, correct for occluded points too, and occluded bool
    [T-1, H, W]: in frame t + 1 another figure covers that point, or it has left the picture.
    """
    flow = np.zeros((frames - 1, height, width, 2), np.float32)
    occluded = np.zeros((frames - 1, height, width), bool)
    for t in range(frames - 1):
        flow[t], occluded[t] = _between(figures, t, height, width)
    return flow, occluded


def _between(figures: Sequence[Figure], t: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    side, now, then = min(height, width), slice(t, t + 1), slice(t + 1, t + 2)
    y = ((np.arange(height) + 0.5) / side).astype(np.float32)[:, None]
    x = ((np.arange(width) + 0.5) / side).astype(np.float32)
    visible = foremost(figures, now, x, y)[0]
    step = np.zeros((2, height, width), np.float32)
    for number, figure in enumerate(figures):
        for plane, moved in zip(step, figure.displacement(now, x, y), strict=True):
            np.copyto(plane, moved[0], where=visible == number)
    to_x, to_y = x + step[0], y + step[1]
    outside = (to_x < 0) | (to_x >= width / side) | (to_y < 0) | (to_y >= height / side)
    return np.moveaxis(step, 0, -1) * np.float32(side), outside | (foremost(figures, then, to_x, to_y)[0] != visible)
