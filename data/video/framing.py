"""Crops and resizes frames of any size, with pixels of any shape, to the square pixels of a framing."""

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


def frame_into(framing: Framing, frame: np.ndarray, pixel_aspect: float = 1.0) -> np.ndarray:
    """uint8 [H, W, 3] of any size -> uint8 [height, width, 3]. A frame of that size already is returned unchanged.

    `pixel_aspect` is the width of the frame's pixels by their height. A crop is of the framing's shape as it is shown.
    """
    height, width = frame.shape[:2]
    full = (0, 0, width, height)
    box = centered_box(framing, height, width, pixel_aspect) if framing.crop == "center" else full
    if (height, width) == (framing.height, framing.width) and box == full:
        return frame
    picture = Image.fromarray(frame).resize((framing.width, framing.height), _FILTERS[framing.resize], box=box)
    return np.asarray(picture)


def centered_box(framing: Framing, height: int, width: int, pixel_aspect: float = 1.0) -> tuple[int, int, int, int]:
    """The largest centred box (left, top, right, bottom) in a frame, in its pixels, that is shown in the framing's
    shape.
    """
    box_width = min(width, max(1, round(height * framing.width / (framing.height * pixel_aspect))))
    box_height = min(height, max(1, round(width * pixel_aspect * framing.height / framing.width)))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height
