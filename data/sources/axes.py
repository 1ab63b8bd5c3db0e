"""The axes of arrays of frames: N videos, T frames, H W pixels, C channels, in the order in which they are stored."""

from __future__ import annotations

import numpy as np

from tokenreel.errors import DataError

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
_REQUIRED, _KNOWN = frozenset("THW"), frozenset("NTHWC")


def parse_axes(location: str, text: str) -> str:
    """`TNHW` from the option `axes`, in any case. Raises DataError unless each letter is known and there once."""
    axes = text.upper()
    if not _REQUIRED <= set(axes) <= _KNOWN or len(set(axes)) != len(axes):
        raise DataError(
            f"{location}: axes (={text}) must name each axis of the array once, in its order: T (frames), H, W, and N "
            "(videos) and C (channels) where it has them: axes=NTHWC, axes=TNHW"
        )
    return axes


def axes_of(location: str, name: str, shape: tuple[int, ...], stated: str | None) -> str:
    """The axes of the array `name`, as `stated` for arrays with as many axes, or as its shape alone can be read.

    Of five axes, the first counts N. Raises DataError for a shape with several readings, and for one with none.
    """
    what = f"{location}: array {name!r} has the shape {list(shape)}"
    if stated is not None and len(stated) == len(shape):
        if "C" in stated and shape[stated.index("C")] not in CHANNELS:
            raise DataError(f"{what}, so C of axes={stated} would be {shape[stated.index('C')]}; expected 1, 3 or 4")
        return stated
    readings = _readings(shape)
    if not readings:
        raise DataError(f"{what}; expected [N, T, H, W, C] with C = 1, 3 or 4, [N, T, H, W], [T, H, W, C] or [T, H, W]")
    if len(readings) > 1:
        raise DataError(
            f"{what}, which may be {' or '.join(readings)}: state which, such as ?axes={readings[0]}, or choose other "
            "arrays of the file with ?keys="
        )
    return readings[0]


def _readings(shape: tuple[int, ...]) -> list[str]:
    """What the axes may be, where no picture is taken to be 1, 3 or 4 pixels wide.

    [T, 4, H, W] is uncertain, as stacks of four grey frames are common.
    """
    if len(shape) == 3:
        return ["THW", "HWC, which is not a video"] if shape[2] in (3, 4) else ["THW"]
    if len(shape) == 4:
        if shape[3] in CHANNELS:
            return ["THWC"]
        return {1: ["TCHW"], 3: ["TCHW"], 4: ["TCHW", "NTHW", "TNHW"]}.get(shape[1], ["NTHW", "TNHW"])
    if len(shape) == 5:
        if shape[4] in CHANNELS:
            return ["NTHWC"]
        return [axes for axes in ("NTCHW", "NCTHW") if shape[axes.index("C")] in CHANNELS]
    return []


def in_order(frames: np.ndarray, axes: str) -> np.ndarray:
    """Frames of one video with these axes (no N) -> uint8 [T, H, W, 1 or 3]; alpha is dropped."""
    ordered = frames.transpose([axes.index(axis) for axis in "THWC" if axis in axes])
    return ordered[..., :3] if "C" in axes else ordered[..., None]
