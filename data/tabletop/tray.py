"""The tray that all clips of a seed share: wood with a soft grain, a raised rim, light that falls off to one side."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tokenreel.data.tabletop.random_numbers import TRAY_STREAM, RandomNumbers
from tokenreel.data.tabletop.scene import RIM, TabletopConfig

WOOD = np.array([202, 184, 156], np.float32)
EDGE_WOOD = np.array([150, 124, 96], np.float32)
GROUND = np.array([112, 116, 112], np.float32)
GRAIN = 7.0  # grey levels, the largest deviation of the grain from its mean


def tray(config: TabletopConfig) -> np.ndarray:
    """The picture of the tray, float32 [3, H, W] in 0 ... 255; read-only, as all clips of a seed and size share it."""
    return _tray(config.height, config.width, config.seed)


@lru_cache(maxsize=8)
def _tray(height: int, width: int, seed: int) -> np.ndarray:
    rng, side = RandomNumbers(seed, TRAY_STREAM), min(height, width)
    x, y = (((np.arange(n) + 0.5) / side).astype(np.float32) for n in (width, height))
    boards = _noise(rng, y * 7, x * 1.5) + np.float32(0.5) * _noise(rng, y * 17, x * 2)
    patches = _noise(rng, y * 3, x * 3)
    light = np.float32(1.05) - np.float32(0.07) * (x / x[-1]) - np.float32(0.06) * (y[:, None] / y[-1])
    edge = np.minimum(np.minimum(x, x[-1] + x[0] - x), np.minimum(y, y[-1] + y[0] - y)[:, None])
    inner = np.clip((edge - np.float32(RIM)) * np.float32(side / 2) + np.float32(0.5), 0, 1)
    outer = np.clip((edge - np.float32(0.35 * RIM)) * np.float32(side / 2) + np.float32(0.5), 0, 1)
    grain = np.float32(GRAIN) * (boards + np.float32(0.8) * patches) / np.float32(2.3)
    planes = [
        ((g + (e - g) * outer + (w - e) * inner) + grain * (np.float32(0.4) + np.float32(0.6) * inner)) * light
        for g, e, w in zip(GROUND, EDGE_WOOD, WOOD, strict=True)
    ]
    texture = np.clip(np.stack(planes), 0, 255).astype(np.float32)
    texture.flags.writeable = False
    return texture


def _noise(rng: RandomNumbers, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Value noise in [-1, 1]: random heights at the integers, smoothly interpolated. y [H], x [W] -> [H, W]."""
    rows, columns = int(y[-1]) + 2, int(x[-1]) + 2
    heights = (2 * rng.uniforms(rows * columns) - 1).astype(np.float32).reshape(rows, columns)
    (i, v), (j, u) = _cell(y), _cell(x)
    v = v[:, None]
    upper = heights[i][:, j] * (1 - u) + heights[i][:, j + 1] * u
    lower = heights[i + 1][:, j] * (1 - u) + heights[i + 1][:, j + 1] * u
    noise: np.ndarray = upper * (1 - v) + lower * v
    return noise


def _cell(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cell = position.astype(np.int64)
    u = position - cell.astype(np.float32)
    return cell, u * u * (3 - 2 * u)
