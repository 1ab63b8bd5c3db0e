"""Draws the figures of a Tabletop clip over its tray, many frames at once, with soft edges.

Only + - * / and sqrt on float32, never summed over an axis, so that the pixels are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tokenreel.data.tabletop.figures import Figure

EDGE = 1.75  # pixels over which an edge fades; above 1, so that motion by a fraction of a pixel is visible
BLOCK_PIXELS = 2**18  # drawn at a time: its arrays stay in the processor's cache, and memory does not grow with length


def draw(tray: np.ndarray, figures: Sequence[Figure], frames: int) -> np.ndarray:
    """The frames uint8 [T, H, W, 3]: `figures`, back to front, over `tray`, float32 [3, H, W] in 0 ... 255."""
    height, width = tray.shape[1:]
    pictures = np.empty((frames, height, width, 3), np.uint8)
    block = max(1, BLOCK_PIXELS // (height * width))
    for first in range(0, frames, block):
        span = slice(first, min(first + block, frames))
        canvas = np.repeat(tray[:, None], span.stop - first, axis=1)
        for figure in figures:
            _paint(canvas, figure, span)
        pictures[span] = (canvas + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 3, 0)
    return pictures


def _paint(canvas: np.ndarray, figure: Figure, frames: slice) -> None:
    """Draws one figure over canvas [3, T, H, W], within the box that contains it in all of these frames."""
    side = min(canvas.shape[2:])
    rows, columns = _box(figure, frames, side, canvas.shape[2:])
    y = ((np.arange(rows.start, rows.stop) + 0.5) / side).astype(np.float32)[:, None]
    x = ((np.arange(columns.start, columns.stop) + 0.5) / side).astype(np.float32)
    coverage = figure.distance(frames, x, y)
    coverage *= np.float32(-side / EDGE)
    coverage += np.float32(0.5)
    np.clip(coverage, 0, 1, out=coverage)
    for channel, value in zip(canvas, figure.colour, strict=True):
        part = channel[:, rows, columns]
        part += coverage * (np.float32(value) - part)


def _box(figure: Figure, frames: slice, side: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    margin = figure.reach * side + EDGE
    low, high = figure.centre[frames].min(0) * side - margin, figure.centre[frames].max(0) * side + margin
    rows, columns = (
        slice(min(max(math.floor(low[i]), 0), size), max(min(math.ceil(high[i]), size), 0))
        for i, size in ((1, shape[0]), (0, shape[1]))
    )
    return rows, columns
