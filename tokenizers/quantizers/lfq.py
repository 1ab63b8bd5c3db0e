"""Lookup-free quantization (Yu et al. 2023, MAGVIT-v2 section 3.1, https://arxiv.org/abs/2310.05737): signs.

K = 2^bits codes without a codebook. An entropy loss makes each choice certain and the use of codes even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.errors import ConfigError
from tokenreel.replicas import mean_over_processes
from tokenreel.tokenizers.quantizers.base import Quantizer, QuantizerConfig

MAX_BITS = 20  # the entropy of all codes needs N x 2^(bits / 2) and 2^bits numbers


@dataclass(frozen=True)
class LFQConfig(QuantizerConfig):
    type: ClassVar[str] = "lfq"
    decode_only_settings: ClassVar[tuple[str, ...]] = ("commitment", "entropy", "diversity", "temperature")

    bits: int = 10  # channels of a group, each replaced by its sign; K = 2^bits
    codebooks: int = 1  # q, groups
    commitment: float = 0.25  # weight of the squared distance to the signs
    entropy: float = 0.1  # weight of (mean entropy of a choice) - diversity x (entropy of the mean choice), in nats
    diversity: float = 1.0  # weight of even use relative to certain choices
    temperature: float = 1.0  # of the softmax over minus squared distances, the distribution of a choice

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise ConfigError(f"bits (={self.bits}) must be between 1 and {MAX_BITS}; use more codebooks instead")
        if self.codebooks < 1:
            raise ConfigError(f"codebooks (={self.codebooks}) must be at least 1")
        if self.temperature <= 0:
            raise ConfigError(f"temperature (={self.temperature}) must be positive")

    @property
    def collapse_advice(self) -> str:
        return "raise entropy or diversity, or take fewer bits"


class LFQ(Quantizer):
    """D channels -> q groups of `bits` channels, each replaced by its sign -> D channels."""

    config_class: ClassVar[type[QuantizerConfig]] = LFQConfig

    basis: Tensor  # int64 [bits], powers of 2

    def __init__(self, config: LFQConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook_size, self.codebooks = 2**config.bits, config.codebooks
        channels = config.bits * config.codebooks
        self.project_in = nn.Linear(dim, channels)
        self.project_out = nn.Linear(channels, dim)
        self.register_buffer("basis", 2 ** torch.arange(config.bits), persistent=False)

    def encode_rows(self, rows: Tensor) -> Tensor:
        return self._indices(self._project_in(rows))

    def decode_rows(self, indices: Tensor) -> Tensor:
        bits = indices[..., None] // self.basis % 2  # [N, q, bits]
        return self.project_out((2.0 * bits - 1.0).flatten(1))

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        values = self._project_in(rows)
        signs = torch.where(values > 0, 1.0, -1.0)
        losses = {
            "commitment": self.config.commitment * functional.mse_loss(values, signs),
            "entropy": self.config.entropy * self._entropy_loss(values),
        }
        straight = values + (signs - values).detach()
        return self.project_out(straight.flatten(1)), self._indices(values), losses

    def _project_in(self, rows: Tensor) -> Tensor:
        return self.project_in(rows).unflatten(1, (self.codebooks, -1))  # [N, q, bits]

    def _indices(self, values: Tensor) -> Tensor:
        return ((values > 0) * self.basis).sum(-1)

    def _entropy_loss(self, values: Tensor) -> Tensor:
        # softmax over -|z - c|^2 / temperature with c in {-1, 1}^bits factorizes into independent bits
        ones = torch.sigmoid(4.0 * values / self.config.temperature)
        of_choice = _entropy(torch.stack([ones, 1.0 - ones])).sum((0, -1)).mean()
        of_mean = torch.stack([_entropy(_mean_choice(ones[:, i])).sum() for i in range(self.codebooks)]).mean()
        return of_choice - self.config.diversity * of_mean


def _mean_choice(ones: Tensor) -> Tensor:
    """Probabilities [N, bits] of set bits -> [2^bits], in no particular order: each code's probability, mean over N.

    A code is a pair (low half, high half) of independent bits, so one matrix product sums over N, without an N x K
    matrix. N counts the vectors of all processes.
    """
    half = ones.shape[1] // 2
    return mean_over_processes((_joint(ones[:, :half]).T @ _joint(ones[:, half:])).flatten() / len(ones))


def _joint(ones: Tensor) -> Tensor:
    """[N, n] -> [N, 2^n]: probabilities of all combinations of n independent bits."""
    joint = ones.new_ones(len(ones), 1)
    for bit in ones.unbind(1):
        joint = torch.cat([joint * bit[:, None], joint * (1.0 - bit)[:, None]], dim=1)
    return joint


def _entropy(probabilities: Tensor) -> Tensor:
    """Terms -p log p in nats, whose sum over a distribution is its entropy."""
    return -probabilities * probabilities.clamp(min=1e-9).log()
