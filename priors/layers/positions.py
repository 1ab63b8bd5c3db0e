"""Sinusoidal embeddings of three coordinates (Video Transformer, arXiv 1906.02634, section 3.2), and raster order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenreel.errors import ConfigError

MAX_WIDTH = 1 << 16
_MAX_WAVELENGTH = 1e4  # wavelengths rise from 2 pi to almost 2 pi times this


def raster_coordinates(shape: tuple[int, int, int]) -> np.ndarray:
    """int64 [P, 3]: the coordinates of all P locations of a grid, in raster order."""
    return np.indices(shape).reshape(3, -1).T


def sinusoids(shape: tuple[int, int, int], width: int) -> Tensor:
    """float32 [P, width], locations in raster order: a third for each axis, first sines, then cosines.

    Channels beyond the last multiple of 6 are zero. On the CPU, whatever the default device. Raises
    ConfigError for a width that no network has.
    """
    if width > MAX_WIDTH:
        raise ConfigError(f"width (={width}) must be at most {MAX_WIDTH}")
    waves = width // 6
    frequencies = _MAX_WAVELENGTH ** -(np.arange(waves) / waves)
    angles = raster_coordinates(shape)[:, :, None] * frequencies  # [P, 3, waves]
    signal = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(angles), -1)
    padded = np.pad(signal, ((0, 0), (0, width - signal.shape[1])))
    return torch.from_numpy(padded.astype(np.float32))
