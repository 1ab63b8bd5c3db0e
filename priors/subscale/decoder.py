"""From the codes of a slice before a place to what predicts the codes at that place (LVT, section 3.2).

A masked convolution over the slice, positions, and the encoder's word on the place add up; blocks of causal attention
follow. It computes whole slices; `priors/subscale/cached.py` computes the same a few places at a time.

N slices, P places of a slice, q codebooks, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.layers.positions import sinusoids
from tokenreel.priors.subscale.attention import Block
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.slices import Slices, earlier_neighbours

KERNEL = (3, 3, 3)  # of the masked convolution, in the paper as in the public code


class MaskedConvolution(nn.Module):
    """Vectors of the places before each place, in its neighbourhood -> [.., D].

    All 27 taps have weights, as the paper's count of parameters has them, but only those are read that lie before the
    place: 25, or 7 where a slice has one step.
    """

    places: Tensor  # int64 [P, taps read], P where outside of the slice

    def __init__(self, shape: tuple[int, int, int], embedding: int, width: int) -> None:
        super().__init__()
        taps, places = earlier_neighbours(shape, KERNEL)
        self.taps = taps.tolist()
        self.register_buffer("places", torch.from_numpy(places), persistent=False)
        self.weight = nn.Parameter(torch.empty(KERNEL[0] * KERNEL[1] * KERNEL[2], width, embedding))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, vectors: Tensor) -> Tensor:
        """[N, P, embedding] -> [N, P, D]"""
        padded = F.pad(vectors, (0, 0, 0, 1))
        return F.linear(padded[:, self.places].flatten(2), self.flat_weight(), self.bias)

    def flat_weight(self) -> Tensor:
        """[D, taps read * embedding]"""
        return self.weight[self.taps].transpose(0, 1).flatten(1)


class Decoder(nn.Module):
    """[N, P, D] of each place, from the codes before it in the slice and the encoder's output."""

    positions: Tensor  # [P, D]

    def __init__(self, config: SubscaleTransformerConfig, slices: Slices) -> None:
        super().__init__()
        self.convolution = MaskedConvolution(slices.shape, config.embedding, config.width)
        self.register_buffer("positions", sinusoids(slices.shape, config.width), persistent=False)
        self.context = nn.Linear(config.width, config.width, bias=False)
        self.blocks = nn.ModuleList(Block(config, slices.shape, causal=True) for _ in range(config.depth))

    def forward(self, vectors: Tensor, encoded: Tensor) -> Tensor:
        """`vectors` [N, P, embedding] of the slice's codes, `encoded` [N, P, D] of the encoder."""
        x = self.convolution(vectors) + self.positions + self.context(encoded)
        for block in self.blocks:
            x = block(x)
        return x
