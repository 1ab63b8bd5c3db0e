"""Residual vector quantization (Zeghidour et al. 2021, SoundStream, section III-C, https://arxiv.org/abs/2107.03312).

q codebooks in sequence: each quantizes the residual of those before it, and a vector is the sum of its q codebook
vectors. The search is greedy, one nearest vector per stage. As in SoundStream, codebooks are initialised by k-means and
codes that are hardly used are replaced. Its quantizer dropout is not implemented.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.errors import ConfigError
from tokenreel.tokenizers.quantizers.base import Quantizer, QuantizerConfig
from tokenreel.tokenizers.quantizers.vq import VQ, VQConfig


@dataclass(frozen=True)
class RVQConfig(VQConfig):
    """VQ's settings, which apply to every stage's codebook."""

    type: ClassVar[str] = "rvq"

    codebooks: int = 8  # q, stages; 8 of 1024 codes in SoundStream
    init: Literal["uniform", "data", "kmeans"] = "kmeans"
    revive_below: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codebooks < 1:
            raise ConfigError(f"codebooks (={self.codebooks}) must be at least 1")


class RVQ(Quantizer):
    """q stages, each a VQ with one codebook of K vectors with D channels."""

    config_class: ClassVar[type[QuantizerConfig]] = RVQConfig

    def __init__(self, config: RVQConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook_size, self.codebooks = config.codebook_size, config.codebooks
        stage = dataclasses.replace(config, codebooks=1)
        self.stages = cast(Sequence[VQ], nn.ModuleList(VQ(stage, dim) for _ in range(config.codebooks)))

    def encode_rows(self, rows: Tensor) -> Tensor:
        indices = []
        for stage in self.stages:
            indices.append(stage.encode_rows(rows))
            rows = rows - stage.decode_rows(indices[-1])
        return torch.cat(indices, dim=1)

    def decode_rows(self, indices: Tensor) -> Tensor:
        parts = [stage.decode_rows(indices[:, i : i + 1]) for i, stage in enumerate(self.stages)]
        return torch.stack(parts).sum(0)

    @property
    def needs_data(self) -> bool:
        return any(stage.needs_data for stage in self.stages)

    def initialise_rows(self, rows: Tensor) -> None:
        """Each stage from the residual of those before it."""
        for stage in self.stages:
            stage.initialise_rows(rows)
            rows = rows - stage.decode_rows(stage.encode_rows(rows))

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The commitment loss is the sum over stages of the distance of each residual to its codebook vector."""
        residual, indices, parts, distances = rows, [], [], []
        for stage in self.stages:
            stage_indices, chosen = stage.quantize_rows(residual.detach())
            distances.append(functional.mse_loss(residual, chosen))
            residual = residual - chosen
            indices.append(stage_indices)
            parts.append(chosen)
        losses = {"commitment": self.config.commitment * torch.stack(distances).sum()}
        quantized = torch.stack(parts).sum(0)
        return rows + (quantized - rows).detach(), torch.cat(indices, dim=1), losses
