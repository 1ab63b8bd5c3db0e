"""Vector quantization by nearest neighbour with an EMA codebook (van den Oord et al. 2017, https://arxiv.org/abs/1711.00937).

Sliced as in LVT section 3.1 (after Kaiser et al. 2018, https://arxiv.org/abs/1803.03382): the channels are split over q
independent codebooks. Codebooks are updated by exponential moving averages, not by gradients. A step looks vectors up
before it updates them, so the commitment loss is of the codebook as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.errors import ConfigError
from tokenreel.replicas import StepSums, process_count, sample_rows, sum_over_processes
from tokenreel.tokenizers.quantizers.base import Quantizer, QuantizerConfig, count_codes, slice_width
from tokenreel.tokenizers.quantizers.nearest import nearest_indices

KMEANS_ITERATIONS = 10


@dataclass(frozen=True)
class VQConfig(QuantizerConfig):
    type: ClassVar[str] = "vq"
    decode_only_settings: ClassVar[tuple[str, ...]] = ("commitment", "decay", "smoothing", "init", "revive_below")

    codebook_size: int = 512  # K, the size of each codebook
    codebooks: int = 1  # q, slices that the channels are split into
    commitment: float = 1.0  # weight of the squared distance of latents to their codebook vectors; 1 in LVT equation 1
    decay: float = 0.99  # of the moving averages, per training step
    smoothing: float = 1e-5  # added to every code's average count, so that none is zero
    init: Literal["uniform", "data", "kmeans"] = "data"  # uniform: in +-1/K, as LVT; others: from the first batch
    revive_below: float = 0.0  # resets codes chosen by less than this fraction of N/K vectors per step; 0: never

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise ConfigError(f"codebook_size (={self.codebook_size}) must be at least 2")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay (={self.decay}) must be in [0, 1)")
        if not self.smoothing > 0:
            raise ConfigError(f"smoothing (={self.smoothing}) must be above 0: an unused code would be divided by zero")
        if not 0 <= self.revive_below < 1:
            raise ConfigError(f"revive_below (={self.revive_below}) must be in [0, 1), a fraction of even use")

    @property
    def collapse_advice(self) -> str:
        unset = {"init: kmeans": self.init != "kmeans", "revive_below above 0": not self.revive_below}
        advice = " and ".join(setting for setting, is_unset in unset.items() if is_unset)
        return f"set {advice}, or lower codebook_size" if advice else "lower codebook_size, or train for more steps"


class VQ(Quantizer):
    """q codebooks of K vectors of D / q channels. They move once per training step, by the vectors of its whole batch;
    all buffers are then equal on all processes.
    """

    config_class: ClassVar[type[QuantizerConfig]] = VQConfig

    codebook: Tensor  # [q, K, d]
    average_count: Tensor  # [q, K], moving average of the number of vectors per step that chose the code
    average_sum: Tensor  # [q, K, d], moving average of their sum
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
        self._step_sums = StepSums()

    def encode_rows(self, rows: Tensor) -> Tensor:
        slices = self._slices(rows)
        return torch.stack([nearest_indices(slices[:, i], codebook) for i, codebook in enumerate(self.codebook)], dim=1)

    def decode_rows(self, indices: Tensor) -> Tensor:
        return torch.cat([functional.embedding(indices[:, i], codebook) for i, codebook in enumerate(self.codebook)], 1)

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        indices, chosen = self.quantize_rows(rows.detach())
        losses = {"commitment": self.config.commitment * functional.mse_loss(rows, chosen)}
        return rows + (chosen - rows).detach(), indices, losses

    def quantize_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [N, D] without gradients -> indices [N, q] and their vectors [N, D]. In training mode the codebook is
        initialised if necessary, and updated in a step's last micro-step, after the vectors have been looked up: the
        commitment loss, too, is of the codebook before its update (as in CCVS's code; LVT's takes vectors after it).
        """
        if self.training and self.needs_data:
            self.initialise_rows(rows)
        indices = self.encode_rows(rows)
        chosen = self.decode_rows(indices)
        if self.training:
            self._update(rows, indices)
        return indices, chosen

    def _slices(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (self.codebooks, -1))  # [N, q, d]

    @property
    def needs_data(self) -> bool:
        return not self.initialised

    @torch.no_grad()
    def initialise_rows(self, rows: Tensor) -> None:
        """Sets the codebook to random vectors of the first batch; `kmeans` refines them (Lloyd's algorithm)."""
        (sampled,) = sum_over_processes(sample_rows(rows, self.codebook_size))
        self.codebook.copy_(self._slices(sampled).transpose(0, 1))
        for _ in range(KMEANS_ITERATIONS if self.config.init == "kmeans" else 0):
            counts, sums = sum_over_processes(*self._statistics(rows, self.encode_rows(rows)))
            means = sums / counts.clamp(min=1)[..., None]
            self.codebook.copy_(torch.where(counts[..., None] > 0, means, self.codebook))
        even_count = len(rows) * process_count() / self.codebook_size
        self.average_count.fill_(even_count)
        self.average_sum.copy_(even_count * self.codebook)
        self.initialised.fill_(True)

    @torch.no_grad()
    def _update(self, rows: Tensor, indices: Tensor) -> None:
        """One step of the moving averages over the vectors of the whole batch, then revival of dead codes."""
        candidates = [sample_rows(rows, self.codebook_size)] if self.config.revive_below else []
        totals = self._step_sums.add(*self._statistics(rows, indices), *candidates)
        if totals is None:
            return
        counts, sums, *candidates = totals
        self.average_count.lerp_(counts, 1 - self.config.decay)
        self.average_sum.lerp_(sums, 1 - self.config.decay)
        total = self.average_count.sum(1, keepdim=True)
        smoothed = (
            (self.average_count + self.config.smoothing) * total / (total + self.codebook_size * self.config.smoothing)
        )
        self.codebook.copy_(self.average_sum / smoothed[..., None])
        for rows in candidates:
            self._revive(self._slices(rows).transpose(0, 1), total / self.codebook_size)

    def _revive(self, candidates: Tensor, even_count: Tensor) -> None:
        """Resets dead codes to candidates [q, K, d], and their averages to those of an evenly used code [q, 1]: the old
        averages would move them back in the next step.
        """
        dead = self.average_count < self.config.revive_below * even_count
        self.average_count.copy_(torch.where(dead, even_count, self.average_count))
        self.average_sum.copy_(torch.where(dead[..., None], even_count[..., None] * candidates, self.average_sum))
        self.codebook.copy_(torch.where(dead[..., None], candidates, self.codebook))

    def _statistics(self, rows: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """This process's number of vectors that chose each code, float [q, K], and their sums [q, K, d]."""
        slices, sums = self._slices(rows), torch.zeros_like(self.average_sum)
        for i, codebook_sums in enumerate(sums):
            codebook_sums.index_add_(0, indices[:, i], slices[:, i])
        return count_codes(indices, self.codebook_size).float(), sums
