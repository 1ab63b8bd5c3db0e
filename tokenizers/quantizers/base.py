"""Base class of quantizers: latent vectors -> indices -> latent vectors.

Each of the B x t x h x w vectors is quantized independently. Everything runs in float32 whatever the autocast
precision, because the index of a vector near a boundary depends on rounding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from tokenreel.errors import ConfigError
from tokenreel.registry import Registry

QUANTIZERS: Registry[Quantizer] = Registry(
    "quantizer",
    {
        "fsq": "tokenreel.tokenizers.quantizers.fsq:FSQ",
        "lfq": "tokenreel.tokenizers.quantizers.lfq:LFQ",
        "rvq": "tokenreel.tokenizers.quantizers.rvq:RVQ",
        "vq": "tokenreel.tokenizers.quantizers.vq:VQ",
    },
    base="tokenreel.tokenizers.quantizers.base:Quantizer",
)


class QuantizerConfig:
    """Base class of quantizers' configurations, frozen dataclasses. `type` is the quantizer's name in the registry."""

    type: ClassVar[str]
    decode_only_settings: ClassVar[tuple[str, ...]] = ()  # fields on which no index depends

    @property
    def collapse_advice(self) -> str:
        """What to change if few codes are in use, by the names of these fields."""
        return "take fewer codes, or train for more steps"


AnyQuantizerConfig = Annotated[QuantizerConfig, QUANTIZERS]  # type of a tokenizer's setting that takes any quantizer


@dataclass
class Quantized:
    """Output of the training pass of a quantizer."""

    latents: Tensor  # [B, D, t, h, w]: quantized vectors, with straight-through gradients to the encoder's
    indices: Tensor  # int64 [B, t, h, w, q]
    losses: dict[str, Tensor]  # scalars by name, already weighted
    code_counts: Tensor  # int64 [q, K]: how often each code was chosen


class Quantizer(nn.Module):
    """Base class of quantizers. A subclass sets `config_class`, `codebook_size` and `codebooks`, and implements the
    three methods over rows: N = B x t x h x w vectors. It is constructed as `Subclass(config, dim)`, for latents of
    `dim` channels, and raises ConfigError if they do not fit.
    """

    config_class: ClassVar[type[QuantizerConfig]]

    codebook_size: int  # K, the size of each codebook
    codebooks: int  # q, indices per vector

    @abstractmethod
    def encode_rows(self, rows: Tensor) -> Tensor:
        """float32 [N, D] -> int64 [N, q]."""

    @abstractmethod
    def decode_rows(self, indices: Tensor) -> Tensor:
        """int64 [N, q] -> float32 [N, D]."""

    @abstractmethod
    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """float32 [N, D] -> straight-through rows [N, D], indices [N, q], weighted losses by name. In training mode it
        may update its codebook, once per step (`StepSums` of `tokenreel.replicas`).
        """

    @property
    def needs_data(self) -> bool:
        """Whether it must be initialised from data before it is trained."""
        return False

    def initialise_rows(self, rows: Tensor) -> None:
        """Sets what is initialised from data, from float32 [N, D]: this process's vectors of the first step's batch."""

    @torch.no_grad()
    def initialise(self, latents: Sequence[Tensor]) -> None:
        """`initialise_rows` from the latents [B, D, t, h, w] of the micro-steps of a step."""
        with full_precision(latents[0]):
            self.initialise_rows(torch.cat([_to_rows(part) for part in latents]))

    def encode(self, latents: Tensor) -> Tensor:
        """[B, D, t, h, w] -> indices int64 [B, t, h, w, q]."""
        with full_precision(latents):
            return self.encode_rows(_to_rows(latents)).view(*_grid(latents), self.codebooks)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices [B, t, h, w, q] -> float32 [B, D, t, h, w]."""
        with full_precision(indices):
            rows = self.decode_rows(indices.reshape(-1, self.codebooks).long())
        return rows.view(*indices.shape[:-1], -1).movedim(-1, 1)

    def forward(self, latents: Tensor) -> Quantized:
        """The training pass over latents [B, D, t, h, w]."""
        with full_precision(latents):
            rows, indices, losses = self.train_rows(_to_rows(latents))
            return Quantized(
                latents=rows.view(*_grid(latents), -1).movedim(-1, 1),
                indices=indices.view(*_grid(latents), self.codebooks),
                losses=losses,
                code_counts=count_codes(indices, self.codebook_size),
            )


def build_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """The registered quantizer of `config`, for latents of `dim` channels. Raises ConfigError if they do not fit."""
    return QUANTIZERS.member(config.type)(config, dim)


@contextmanager
def full_precision(tensor: Tensor) -> Iterator[None]:
    """Disables autocast on the device of `tensor`."""
    with torch.autocast(tensor.device.type, enabled=False):
        yield


def count_codes(indices: Tensor, codebook_size: int) -> Tensor:
    """Indices int64 [N, q] below K = `codebook_size` -> int64 [q, K]: how often each code was chosen."""
    codebooks = indices.shape[1]
    flat = indices + codebook_size * torch.arange(codebooks, device=indices.device)
    return torch.bincount(flat.flatten(), minlength=codebooks * codebook_size).view(codebooks, codebook_size)


def slice_width(dim: int, codebooks: int) -> int:
    """Channels per codebook of latents with `dim` channels. Raises ConfigError unless `codebooks` divides `dim`."""
    if codebooks < 1 or dim % codebooks:
        raise ConfigError(f"latent channels (={dim}) must be a multiple of codebooks (={codebooks})")
    return dim // codebooks


def _to_rows(latents: Tensor) -> Tensor:
    return latents.float().movedim(1, -1).reshape(-1, latents.shape[1])


def _grid(latents: Tensor) -> tuple[int, ...]:
    return (latents.shape[0], *latents.shape[2:])
