"""Finite scalar quantization (Mentzer et al. 2023, https://arxiv.org/abs/2309.15505): each channel is rounded.

No codebook is learned, so none can collapse: K is the product of the numbers of levels, and no loss is added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokenreel.errors import ConfigError
from tokenreel.tokenizers.quantizers.base import Quantizer, QuantizerConfig

SLACK = 1e-3  # extends the range, so that tanh reaches the outermost values and the shift for two levels is finite


@dataclass(frozen=True)
class FSQConfig(QuantizerConfig):
    type: ClassVar[str] = "fsq"

    levels: tuple[int, ...] = (8, 5, 5, 5)  # values of each channel; the paper advises 5 or more, (8, 5, 5, 5) for 2^10
    codebooks: int = 1  # q, groups of such channels; a token each

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ConfigError(f"levels (={self.levels}) must have at least one member and each at least 2 values")
        if self.codebooks < 1:
            raise ConfigError(f"codebooks (={self.codebooks}) must be at least 1")

    @property
    def collapse_advice(self) -> str:
        return "take fewer levels, of 5 values or more"


class FSQ(Quantizer):
    """D channels -> q groups of len(levels) channels, each rounded to one of its levels -> D channels."""

    config_class: ClassVar[type[QuantizerConfig]] = FSQConfig

    levels: Tensor  # float [g]
    basis: Tensor  # int64 [g], factor of each channel's digit in an index

    def __init__(self, config: FSQConfig, dim: int) -> None:
        super().__init__()
        self.codebook_size, self.codebooks = math.prod(config.levels), config.codebooks
        channels = len(config.levels) * config.codebooks
        self.project_in = nn.Linear(dim, channels)
        self.project_out = nn.Linear(channels, dim)
        levels = torch.tensor(config.levels)
        self.register_buffer("levels", levels.float(), persistent=False)
        self.register_buffer("basis", torch.cumprod(levels, 0) // levels, persistent=False)

    def encode_rows(self, rows: Tensor) -> Tensor:
        return self._indices(self._bounded(rows).round())

    def decode_rows(self, indices: Tensor) -> Tensor:
        digits = indices[..., None] // self.basis % self.levels.long()  # [N, q, g], 0 .. levels - 1
        return self._project_out(digits - self.levels // 2)

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        bounded = self._bounded(rows)
        rounded = bounded.round()
        straight = bounded + (rounded - bounded).detach()
        return self._project_out(straight), self._indices(rounded), {}

    def _bounded(self, rows: Tensor) -> Tensor:
        """[N, D] -> [N, q, g], bounded so that rounding gives the values -levels // 2 ... (levels - 1) // 2."""
        half = (self.levels - 1) * (1 + SLACK) / 2
        offset = 0.5 * (self.levels % 2 == 0)
        shift = torch.atanh(offset / half)
        return torch.tanh(self.project_in(rows).unflatten(1, (self.codebooks, -1)) + shift) * half - offset

    def _indices(self, rounded: Tensor) -> Tensor:
        return ((rounded + self.levels // 2).long() * self.basis).sum(-1)

    def _project_out(self, values: Tensor) -> Tensor:
        return self.project_out((values / (self.levels // 2)).flatten(1))  # into about [-1, 1]
