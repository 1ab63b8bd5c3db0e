"""The noise of samples, which depends on nothing but (seed, sample)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenreel.counter_rng import uniforms


def sample_noise(seed: int, samples: np.ndarray, size: int) -> Tensor:
    """Normal, of mean 0 and variance 1, float32 [B, size], for the numbers of samples [B], not negative.

    Counter-based uniform numbers through the inverse of the normal distribution: the first 8 of 16 samples are those of
    8 samples.
    """
    numbers = uniforms(seed, samples, np.arange(size))
    return torch.special.ndtri(torch.from_numpy(numbers)).float()
