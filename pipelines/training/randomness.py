"""Random numbers of training: a function of where in the run they are drawn, so nothing about them is ever saved."""

from __future__ import annotations

import numpy as np
import torch


def seed_from(*numbers: int) -> int:
    """A 63-bit seed for a place in the run, such as (seed, step, update, micro step, rank)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seed_everything(device: torch.device, *numbers: int) -> torch.Generator:
    """Seeds torch's global generators (dropout draws from those) and returns a generator on `device` with that seed."""
    seed = seed_from(*numbers)
    torch.manual_seed(seed)
    return torch.Generator(device).manual_seed(seed)
