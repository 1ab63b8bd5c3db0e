"""Vector quantization by nearest neighbour with an EMA codebook (van den Oord et al. 2017, https://arxiv.org/abs/1711.00937).

Sliced as in LVT section 3.1 (after Kaiser et al. 2018, https://arxiv.org/abs/1803.03382): the channels are split over q
independent codebooks. The codebook follows the encoder by moving averages, not by gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.errors import ConfigError
from tokenreel.tokenizers.quantizers.base import Quantizer, QuantizerConfig, count_codes, slice_width
from tokenreel.tokenizers.quantizers.nearest import nearest_indices
from tokenreel.tokenizers.quantizers.replicas import draw_rows, process_count, sum_over_processes

KMEANS_ITERATIONS = 10


@dataclass(frozen=True)
class VQConfig(QuantizerConfig):
    type: ClassVar[str] = "vq"
    decode_only_settings: ClassVar[tuple[str, ...]] = ("commitment", "decay", "smoothing", "init", "revive_below")
    collapse_advice: ClassVar[str] = "set init: kmeans and revive_below above 0, or take fewer codes"

    codebook_size: int = 512  # K, the size of each codebook
    codebooks: int = 1  # q, slices that the channels are split into
    commitment: float = 1.0  # weight of the loss that keeps the encoder near its codes; 1 in LVT equation 1
    decay: float = 0.99  # of the moving averages, each training step
    smoothing: float = 1e-5  # vectors added to every code's average count, so that none is divided by zero
    init: Literal["uniform", "data", "kmeans"] = "data"  # uniform: in +-1/K, as LVT; else from the first training batch
    revive_below: float = 0.0  # moves a code to a random vector once chosen less than this part of N/K a step; 0: never

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise ConfigError(f"codebook_size (={self.codebook_size}) must be at least 2")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay (={self.decay}) must be in [0, 1)")
        if not 0 <= self.revive_below < 1:
            raise ConfigError(f"revive_below (={self.revive_below}) is a part of the even share: use a value in [0, 1)")


class VQ(Quantizer):
    """q codebooks of K vectors of D / q channels. All buffers are equal on all processes after every training step."""

    config_class: ClassVar[type[QuantizerConfig]] = VQConfig

    codebook: Tensor  # [q, K, d]
    average_count: Tensor  # [q, K], vectors that chose the code in a step, moving average
    average_sum: Tensor  # [q, K, d], their sum
    initialised: Tensor  # bool []

    def __init__(self, config: VQConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook_size, self.codebooks = config.codebook_size, config.codebooks
        shape = (config.codebooks, config.codebook_size, slice_width(dim, config.codebooks))
        codebook = torch.empty(shape).uniform_(-1 / config.codebook_size, 1 / config.codebook_size)
        self.register_buffer("codebook", codebook)
        self.register_buffer("average_count", torch.ones(shape[:2]))
        self.register_buffer("average_sum", codebook.clone())
        self.register_buffer("initialised", torch.tensor(config.init == "uniform"))

    def encode_rows(self, rows: Tensor) -> Tensor:
        slices = self._slices(rows)
        return torch.stack([nearest_indices(slices[:, i], book) for i, book in enumerate(self.codebook)], dim=1)

    def decode_rows(self, indices: Tensor) -> Tensor:
        return torch.cat([functional.embedding(indices[:, i], book) for i, book in enumerate(self.codebook)], dim=1)

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        indices, chosen = self.quantize_rows(rows.detach())
        losses = {"commitment": self.config.commitment * functional.mse_loss(rows, chosen)}
        return rows + (chosen - rows).detach(), indices, losses

    def quantize_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [N, D] without gradients -> codes [N, q] and their vectors [N, D]. In training mode the codebook is
        initialised if need be, and moves once the vectors are taken from it.
        """
        if self.training and not self.initialised:
            self._initialise(rows)
        indices = self.encode_rows(rows)
        chosen = self.decode_rows(indices)
        if self.training:
            self._follow(rows, indices)
        return indices, chosen

    def _slices(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (self.codebooks, -1))  # [N, q, d]

    @torch.no_grad()
    def _initialise(self, rows: Tensor) -> None:
        """Random vectors of the first training batch become the codebook; `kmeans` then improves them, Lloyd's way."""
        (drawn,) = sum_over_processes(draw_rows(rows, self.codebook_size))
        self.codebook.copy_(self._slices(drawn).transpose(0, 1))
        for _ in range(KMEANS_ITERATIONS if self.config.init == "kmeans" else 0):
            counts, sums = sum_over_processes(*self._statistics(rows, self.encode_rows(rows)))
            means = sums / counts.clamp(min=1)[..., None]
            self.codebook.copy_(torch.where(counts[..., None] > 0, means, self.codebook))
        share = len(rows) * process_count() / self.codebook_size
        self.average_count.fill_(share)
        self.average_sum.copy_(share * self.codebook)
        self.initialised.fill_(True)

    @torch.no_grad()
    def _follow(self, rows: Tensor, indices: Tensor) -> None:
        """One step of the moving averages over the vectors of all processes, then the revival of dead codes."""
        counts, sums, drawn = sum_over_processes(*self._statistics(rows, indices), draw_rows(rows, self.codebook_size))
        self.average_count.lerp_(counts, 1 - self.config.decay)
        self.average_sum.lerp_(sums, 1 - self.config.decay)
        total = self.average_count.sum(1, keepdim=True)
        smoothed = (
            (self.average_count + self.config.smoothing) * total / (total + self.codebook_size * self.config.smoothing)
        )
        self.codebook.copy_(self.average_sum / smoothed[..., None])
        self._revive(self._slices(drawn).transpose(0, 1), total / self.codebook_size)

    def _revive(self, candidates: Tensor, share: Tensor) -> None:
        """Dead codes take the place of candidates [q, K, d] with the averages of an evenly used code [q, 1]: with the
        old ones, the next step would pull them back to where nobody chose them.
        """
        dead = self.average_count < self.config.revive_below * share
        self.average_count.copy_(torch.where(dead, share, self.average_count))
        self.average_sum.copy_(torch.where(dead[..., None], share[..., None] * candidates, self.average_sum))
        self.codebook.copy_(torch.where(dead[..., None], candidates, self.codebook))

    def _statistics(self, rows: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Of this process: how many vectors chose each code, float [q, K], and their sums [q, K, d]."""
        slices, sums = self._slices(rows), torch.zeros_like(self.average_sum)
        for i, book in enumerate(sums):
            book.index_add_(0, indices[:, i], slices[:, i])
        return count_codes(indices, self.codebook_size).float(), sums
