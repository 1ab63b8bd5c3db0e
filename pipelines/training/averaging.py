"""Exponential moving average of weights (Polyak averaging): it is what is validated and exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, after each step.

    The decay of step n is at most (1 + n) / (10 + n): a short run is not left with its initial weights.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after step number `step` (0 is the first one)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, average in self.tensors.items():
            average.lerp_(self.parameters[name], 1.0 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the networks hold the averaged weights; buffers, a codebook among them, stay as they are."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.tensors.items():
            weights = self.parameters[name].clone()
            self.parameters[name].copy_(average)
            average.copy_(weights)
