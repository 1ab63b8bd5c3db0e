"""Clips that need no model: the baselines of frames between key frames, and of prediction."""

from __future__ import annotations

import numpy as np


def cross_fade(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
    """uint8 [..., H, W, 3] each -> uint8 [..., frames, H, W, 3]: linear, from `start` to `end`, both included."""
    share = np.linspace(0, 1, frames)[:, None, None, None]
    mixed = (1 - share) * start[..., None, :, :, :] + share * end[..., None, :, :, :]
    return np.rint(mixed).astype(np.uint8)


def nearest_key_frame(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
    """uint8 [..., H, W, 3] each -> uint8 [..., frames, H, W, 3]: `start` in the first half, of an odd number with the
    frame in the middle, then `end`.
    """
    after = np.arange(frames) >= (frames + 1) // 2
    return np.where(after[:, None, None, None], end[..., None, :, :, :], start[..., None, :, :, :])


def repeat_last(given: np.ndarray, frames: int) -> np.ndarray:
    """uint8 [..., n, H, W, 3] -> uint8 [..., frames, H, W, 3]: the given frames, then the last of them again."""
    repeated = np.repeat(given[..., -1:, :, :, :], frames - given.shape[-4], axis=-4)
    return np.concatenate([given, repeated], axis=-4)
