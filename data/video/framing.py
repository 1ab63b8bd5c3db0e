"""Crops and resizes frames of any size to the size of a framing.

Pixels are treated as square: a container's sample aspect ratio is not applied.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from tokenreel.data.spec import Framing

_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


def frame_into(framing: Framing, frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of any size -> uint8 [height, width, 3]. A frame of that size already is returned unchanged."""
    height, width = frame.shape[:2]
    if (height, width) == (framing.height, framing.width):
        return frame
    box = centered_box(framing, height, width) if framing.crop == "center" else (0, 0, width, height)
    picture = Image.fromarray(frame).resize((framing.width, framing.height), _FILTERS[framing.resize], box=box)
    return np.asarray(picture)


def centered_box(framing: Framing, height: int, width: int) -> tuple[int, int, int, int]:
    """The largest centred box (left, top, right, bottom) of the framing's shape in a frame, in pixels."""
    box_width = min(width, max(1, round(height * framing.width / framing.height)))
    box_height = min(height, max(1, round(width * framing.height / framing.width)))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height
