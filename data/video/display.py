"""How a player shows a decoded frame: the display matrix of its side data, from the container, the codec or EXIF."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type

# Kinds of side data that FFmpeg has and PyAV cannot name; a frame that has one (EXIF in MJPEG) gives none at all.
_UNNAMED = range(len(Type), len(Type) + 8)


def orient(frame: Any, pixels: np.ndarray) -> tuple[np.ndarray, bool]:
    """The pixels [H, W, 3] of a decoded frame, turned and mirrored for display; and whether width became height.

    A display matrix takes the pixel at (x, y) to (a x + c y, b x + d y), with y downwards. A matrix that turns by
    anything but quarters, which no camera writes, is taken for the nearest one that does.
    """
    a, b, c, d = _display_matrix(frame)
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    right, down = (c, b) if swapped else (a, d)
    shown = pixels.transpose(1, 0, 2) if swapped else pixels
    return np.ascontiguousarray(shown[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]), swapped


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """a, b, c, d in units of 2^-16."""
    try:
        data = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:
        data = _without_unnamed(frame).side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return 1 << 16, 0, 0, 1 << 16
    matrix = memoryview(bytes(data)).cast("i")  # a b u, c d v, x y w
    return matrix[0], matrix[1], matrix[3], matrix[4]


def _without_unnamed(frame: Any) -> Any:
    """The frame without side data that PyAV cannot name."""
    graph = Graph()
    start = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    filters = [graph.add("sidedata", f"mode=delete:type={kind}") for kind in _UNNAMED]
    graph.link_nodes(start, *filters, graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()
