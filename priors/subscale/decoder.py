"""The decoder of the Video Transformer (LVT, section 3.2): a vector for each location from the tokens before it.

A masked convolution over the slice, the position embedding and the encoder's output are added; blocks of causal
attention follow. It computes whole slices; `cached.py` computes the same a few locations at a time.

N slices, P locations of a slice, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.layers.positions import sinusoids
from tokenreel.priors.layers.recompute import Recomputable
from tokenreel.priors.subscale.attention import Block
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.slices import Slices, earlier_neighbours

KERNEL = (3, 3, 3)  # of the masked convolution, in the paper and in the published code


class MaskedConvolution(nn.Module):
    """Vectors of the locations before each location, in its neighbourhood -> [.., D].

    All 27 taps have weights, as in the paper's parameter count, but only those before the location are used: 25, or 7
    where a slice has one step. The tap to the left continues at the end of the row before, so that with attention every
    location depends on all before it. In the published code the first columns of a row do not depend on the last
    location of the row before.
    """

    covered: Tensor  # int64 [P, taps used], the location that each tap covers; P outside of the slice

    def __init__(self, shape: tuple[int, int, int], embedding: int, width: int) -> None:
        super().__init__()
        taps, covered = earlier_neighbours(shape, KERNEL)
        self.taps = taps.tolist()
        self.register_buffer("covered", torch.from_numpy(covered), persistent=False)
        self.weight = nn.Parameter(torch.empty(KERNEL[0] * KERNEL[1] * KERNEL[2], width, embedding))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, vectors: Tensor) -> Tensor:
        """[N, P, embedding] -> [N, P, D]"""
        padded = F.pad(vectors, (0, 0, 0, 1))
        return F.linear(padded[:, self.covered].flatten(2), self.flat_weight(), self.bias)

    def flat_weight(self) -> Tensor:
        """[D, taps used * embedding]"""
        return self.weight[self.taps].transpose(0, 1).flatten(1)


class Decoder(Recomputable):
    """A vector for each location, [N, P, D], from the tokens before it in the slice and the encoder's output."""

    position_embedding: Tensor  # [P, D]

    def __init__(self, config: SubscaleTransformerConfig, slices: Slices) -> None:
        super().__init__()
        self.convolution = MaskedConvolution(slices.shape, config.embedding, config.width)
        self.register_buffer("position_embedding", sinusoids(slices.shape, config.width), persistent=False)
        self.context = nn.Linear(config.width, config.width, bias=False)
        self.blocks = nn.ModuleList(Block(config, slices.shape, causal=True) for _ in range(config.depth))

    def forward(self, vectors: Tensor, encoded: Tensor) -> Tensor:
        """`vectors` [N, P, embedding] of the slice's tokens, and `encoded` [N, P, D], the encoder's output."""
        x = self.convolution(vectors) + self.position_embedding + self.context(encoded)
        for block in self.blocks:
            x = self.run_block(block, x)
        return x
