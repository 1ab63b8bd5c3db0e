"""What every quantizer is: latent vectors -> codes -> latent vectors, with what a training step needs of it.

A quantizer knows nothing of pixels, frames or clips: each of the B x t x h x w vectors is coded on its own. All of it
runs in float32 whatever the autocast precision, because the code of a vector near a boundary depends on rounding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from tokenreel.config import Registry
from tokenreel.errors import ConfigError

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
    """Base of the frozen dataclass above each quantizer. `type` is its name in the registry."""

    type: ClassVar[str]
    decode_only_settings: ClassVar[tuple[str, ...]] = ()  # of decoding and training: no code depends on them
    collapse_advice: ClassVar[str] = "take fewer codes"  # what helps where few codes are in use, in these settings


AnyQuantizerConfig = Annotated[QuantizerConfig, QUANTIZERS]  # type of a tokenizer's setting that takes any quantizer


@dataclass
class Quantized:
    """What a training step needs of a quantizer."""

    latents: (
        Tensor  # [B, D, t, h, w]: the codes' vectors, with gradients as if they were the encoder's (straight-through)
    )
    indices: Tensor  # int64 [B, t, h, w, q]
    losses: dict[str, Tensor]  # scalars by name, already weighted
    code_counts: Tensor  # int64 [q, K]: how often each code was chosen


class Quantizer(nn.Module):
    """Base of all quantizers. A member sets `config_class`, `indices` and `codebooks`, and fills in the three methods
    over rows: N = B x t x h x w vectors. It is constructed as `Member(config, dim)` for latents of `dim` channels, and
    raises ConfigError where they do not fit.
    """

    config_class: ClassVar[type[QuantizerConfig]]

    codebook_size: int  # K, the size of each codebook
    codebooks: int  # q, codes for each vector

    @abstractmethod
    def encode_rows(self, rows: Tensor) -> Tensor:
        """float32 [N, D] -> int64 [N, q]."""

    @abstractmethod
    def decode_rows(self, indices: Tensor) -> Tensor:
        """int64 [N, q] -> float32 [N, D]."""

    @abstractmethod
    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """float32 [N, D] -> straight-through rows [N, D], codes [N, q], weighted losses by name. In training mode it
        may move its codebook, once a call.
        """

    def encode(self, latents: Tensor) -> Tensor:
        """[B, D, t, h, w] -> codes int64 [B, t, h, w, q]."""
        with full_precision(latents):
            return self.encode_rows(_to_rows(latents)).view(*_grid(latents), self.codebooks)

    def decode(self, indices: Tensor) -> Tensor:
        """Codes [B, t, h, w, q] -> float32 [B, D, t, h, w]."""
        with full_precision(indices):
            rows = self.decode_rows(indices.reshape(-1, self.codebooks).long())
        return rows.view(*indices.shape[:-1], -1).movedim(-1, 1)

    def forward(self, latents: Tensor) -> Quantized:
        """[B, D, t, h, w] -> everything a training step needs."""
        with full_precision(latents):
            rows, indices, losses = self.train_rows(_to_rows(latents))
            return Quantized(
                latents=rows.view(*_grid(latents), -1).movedim(-1, 1),
                indices=indices.view(*_grid(latents), self.codebooks),
                losses=losses,
                code_counts=count_codes(indices, self.codebook_size),
            )


def build_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """The registered quantizer of `config`, for latents of `dim` channels. Raises ConfigError where they do not fit."""
    return QUANTIZERS.member(config.type)(config, dim)


@contextmanager
def full_precision(tensor: Tensor) -> Iterator[None]:
    """Autocast off on the device of `tensor`."""
    with torch.autocast(tensor.device.type, enabled=False):
        yield


def count_codes(indices: Tensor, size: int) -> Tensor:
    """int64 [N, q] with codes below `size` -> int64 [q, K]: how often each was chosen."""
    books = indices.shape[1]
    apart = indices + size * torch.arange(books, device=indices.device)
    return torch.bincount(apart.flatten(), minlength=books * size).view(books, size)


def slice_width(dim: int, codebooks: int) -> int:
    """Channels of one slice when `dim` channels are shared out over the codebooks. ConfigError unless they divide."""
    if codebooks < 1 or dim % codebooks:
        raise ConfigError(f"latent channels (={dim}) must be a multiple of codebooks (={codebooks})")
    return dim // codebooks


def _to_rows(latents: Tensor) -> Tensor:
    return latents.float().movedim(1, -1).reshape(-1, latents.shape[1])


def _grid(latents: Tensor) -> tuple[int, ...]:
    return (latents.shape[0], *latents.shape[2:])
