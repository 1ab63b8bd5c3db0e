"""Where a place lies, in sines and cosines of three coordinates (Video Transformer, arXiv 1906.02634, section 3.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_LONGEST = 1e4  # wavelengths rise from 2 pi to almost 2 pi times this


def sinusoids(shape: tuple[int, int, int], width: int) -> Tensor:
    """float32 [P, width], places in raster order: a third for each axis, in it first sines, then cosines.

    What a width leaves over, that is no multiple of 6, is zero. On the CPU whatever the default device.
    """
    waves = width // 6
    frequencies = _LONGEST ** -(np.arange(waves) / waves)
    angles = np.indices(shape).reshape(3, -1).T[:, :, None] * frequencies  # [P, 3, waves]
    signal = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(angles), -1)
    padded = np.pad(signal, ((0, 0), (0, width - signal.shape[1])))
    return torch.from_numpy(padded.astype(np.float32))
