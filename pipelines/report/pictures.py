"""Pictures of videos and of tokens as uint8 arrays.

Videos are uint8 [T, H, W, 3]; the tokens of one stream of a clip are integers [t, h, w, q].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GAP = 2  # pixels between tiles
BACKGROUND = 255  # the page is white
CHANGED = np.array([253, 231, 37], np.uint8)  # yellow, as in LVT appendix B
SAME = np.array([68, 1, 84], np.uint8)  # violet
BAR = np.zeros(3, np.uint8)  # black, between given and sampled steps
BAR_WIDTH = 4  # pixels
TILE = 64  # pixels, about the longer side of the map of a code step
MAX_WIDTH = 8192  # pixels of a row of code steps, unless a token would be smaller than a pixel


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """[..., H, W, 3] -> [..., factor H, factor W, 3], without smoothing."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def beside(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Videos of equal length and height side by side: [T, H, sum of W and gaps, 3]."""
    return _joined(videos, axis=2)


def below(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Videos of equal length and width below each other: [T, sum of H and gaps, W, 3]."""
    return _joined(videos, axis=1)


def film_strip(frames: np.ndarray, every: int = 1) -> np.ndarray:
    """A video [T, H, W, 3] as a picture [H, W', 3]: every `every`-th frame from left to right."""
    return _joined([frame[None] for frame in frames[::every]], axis=2)[0]


def code_maps(codes: np.ndarray, size: int) -> np.ndarray:
    """LVT appendix B, rows 2-5: a colour for each code. [t, h, w, q] -> [q, t, h', w', 3], h' about `size`."""
    return enlarge(indexed_colours(codes.transpose(3, 0, 1, 2)), max(1, size // codes.shape[1]))


def change_maps(codes: np.ndarray, size: int) -> np.ndarray:
    """LVT appendix B, rows 6-9: yellow where a token differs from the previous step (nowhere in the first step).

    [t, h, w, q] -> [q, t, h', w', 3], h' about `size`.
    """
    changed = np.zeros(codes.shape, bool)
    changed[1:] = codes[1:] != codes[:-1]
    colours = np.where(changed.transpose(3, 0, 1, 2)[..., None], CHANGED, SAME)
    return enlarge(colours, max(1, size // codes.shape[1]))


def code_picture(codes: np.ndarray, given: int = 0) -> np.ndarray:
    """LVT figures 6 to 11, without the video: a row of code maps for each codebook, then a row of change maps for each.

    [t, h, w, q] -> [H, W, 3], time from left to right. A black bar separates the first `given` steps from the sampled
    ones, if there are both.
    """
    t, h, w, _ = codes.shape
    size = h * max(1, min(TILE // max(h, w), MAX_WIDTH // (t * w)))
    steps = below([*code_maps(codes, size), *change_maps(codes, size)])
    if not 0 < given < t:
        return film_strip(steps)
    bar = np.broadcast_to(BAR, (1, steps.shape[1], BAR_WIDTH, 3))
    return beside([film_strip(steps[:given])[None], bar, film_strip(steps[given:])[None]])[0]


def indexed_colours(codes: np.ndarray) -> np.ndarray:
    """A colour for each code, uint8 [..., 3]; distinct up to 2^24 codes, and clearly for neighbouring codes."""
    mixed = codes.astype(np.int64) * 0x9E3779 + 0x4C1F8B  # an odd factor permutes the 24-bit numbers
    return np.stack([(mixed >> shift) & 0xFF for shift in (16, 8, 0)], axis=-1).astype(np.uint8)


def _joined(videos: Sequence[np.ndarray], axis: int) -> np.ndarray:
    shape = list(videos[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, BACKGROUND, np.uint8)
    parts = [part for video in videos for part in (gap, video)][1:]
    return np.concatenate(parts, axis=axis)
