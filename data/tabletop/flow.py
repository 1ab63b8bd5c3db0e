"""True optical flow of a Tabletop clip, from the motion that drew it rather than from its pixels.

Each pixel belongs to the foremost figure that covers its centre; soft edges, where two figures mix, are not told apart.
Nothing casts a shadow and no light changes, so what flow does not explain is occlusion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenreel.data.tabletop.figures import Figure

TRAY = -1  # the number of the tray in a map of figures


def foremost(shown: Sequence[Figure], frames: slice, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which figure (its place in `shown`, or TRAY) one sees at points x, y in each of those frames: int16 [T, H, W]."""
    shape = np.broadcast_shapes((frames.stop - frames.start, 1, 1), x.shape, y.shape)
    seen = np.full(shape, TRAY, np.int16)
    for number, figure in enumerate(shown):
        seen[figure.distance(frames, x, y) <= 0] = number
    return seen


def flow_and_occlusion(shown: Sequence[Figure], frames: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface seen at each pixel of frame t is in frame t + 1.

    Returns flow float32 [T-1, H, W, 2], x and y in pixels, true for hidden points as well, and hidden bool [T-1, H, W]:
    in frame t + 1 something else lies over that point, or it has left the picture.
    """
    flow = np.zeros((frames - 1, height, width, 2), np.float32)
    hidden = np.zeros((frames - 1, height, width), bool)
    for t in range(frames - 1):
        flow[t], hidden[t] = _between(shown, t, height, width)
    return flow, hidden


def _between(shown: Sequence[Figure], t: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    side, now, then = min(height, width), slice(t, t + 1), slice(t + 1, t + 2)
    y = ((np.arange(height) + 0.5) / side).astype(np.float32)[:, None]
    x = ((np.arange(width) + 0.5) / side).astype(np.float32)
    seen = foremost(shown, now, x, y)[0]
    step = np.zeros((2, height, width), np.float32)
    for number, figure in enumerate(shown):
        for plane, moved in zip(step, figure.displacement(now, x, y), strict=True):
            np.copyto(plane, moved[0], where=seen == number)
    to_x, to_y = x + step[0], y + step[1]
    outside = (to_x < 0) | (to_x >= width / side) | (to_y < 0) | (to_y >= height / side)
    return np.moveaxis(step, 0, -1) * np.float32(side), outside | (foremost(shown, then, to_x, to_y)[0] != seen)
