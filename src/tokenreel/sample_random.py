"""Random numbers of training, which belong to samples: to (seed, number of the sample in the run).

So a step's numbers depend neither on how many processes share its batch, nor on how it is split into micro-steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from tokenreel.counter_rng import seeds


class SampleRandom:
    """Random numbers for the B samples of a batch: each draw has a row of numbers for each sample.

    A row is that of torch's generator on `device`, seeded by (seed, sample, number of the draw). The number of draws is
    the only state.
    """

    def __init__(self, seed: int, samples: npt.NDArray[np.int64], device: torch.device) -> None:
        """`samples` [B]: their numbers, not negative."""
        self.device = device
        self._seed, self._samples = seed, samples
        self._generator = Generator(device)
        self._draws = 0

    @property
    def count(self) -> int:
        """B, the number of samples."""
        return len(self._samples)

    @classmethod
    def unrepeatable(cls, count: int, device: torch.device) -> Self:
        """For `count` samples without numbers, from torch's global generator."""
        return cls(int(torch.randint(2**62, (), device="cpu")), np.arange(count), device)

    def rand(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), [B, *shape]."""
        return self._draw(shape, torch.get_default_dtype(), lambda row, rng: row.uniform_(generator=rng))

    def randn(self, *shape: int) -> Tensor:
        """Normal, of mean 0 and variance 1, [B, *shape]."""
        return self._draw(shape, torch.get_default_dtype(), lambda row, rng: row.normal_(generator=rng))

    def randint(self, high: int, *shape: int) -> Tensor:
        """Integers from 0 to below `high`, int64 [B, *shape]."""
        return self._draw(shape, torch.long, lambda row, rng: row.random_(0, high, generator=rng))

    def bernoulli(self, p: float, *shape: int, dtype: torch.dtype) -> Tensor:
        """1 with probability p, else 0, [B, *shape]."""
        return self._draw(shape, dtype, lambda row, rng: row.bernoulli_(p, generator=rng))

    def fork(self, copies: int = 1) -> Self:
        """Other numbers for `copies` parts of each sample, [copies B]: the first parts of all samples come first."""
        return type(self)(0, self._seeds(copies).T.ravel(), self.device)

    def restarted(self) -> Self:
        """A copy that draws the numbers that this one would draw next: to compute something again."""
        return copy.copy(self)

    def _draw(self, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[[Tensor, Generator], object]) -> Tensor:
        numbers = torch.empty(self.count, *shape, dtype=dtype, device=self.device)
        for row, seed in zip(numbers, self._seeds(1)[:, 0].tolist(), strict=True):
            fill(row, self._generator.manual_seed(seed))
        return numbers

    def _seeds(self, count: int) -> npt.NDArray[np.int64]:
        """[B, count], of the next draws."""
        draws = np.arange(self._draws, self._draws + count)
        self._draws += count
        return seeds(self._seed, self._samples, draws)
