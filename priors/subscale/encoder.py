"""What a slice's decoder is told of the codes that exist: the encoder of the Video Transformer (LVT, section 3.2).

A convolution that is centred on each place of the slice reads codes of earlier slices and given codes wherever they
lie; all others count as absent. Blocks of attention over the whole slice follow.

B rows, each with a slice of its own choice; P places of a slice, q codebooks, K codes, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.layers.positions import sinusoids
from tokenreel.priors.subscale.attention import Block
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.slices import Slices


class Encoder(nn.Module):
    """Codes of a clip and which of them may be seen -> what they say of each place of a slice, [B, P, D]."""

    neighbours: Tensor  # int64 [slices, P, taps]
    first: Tensor  # int64 [taps, q], row of the table of code 0
    positions: Tensor  # [P, D]

    def __init__(self, config: SubscaleTransformerConfig, slices: Slices, codebook_size: int, codebooks: int) -> None:
        super().__init__()
        neighbours = torch.from_numpy(slices.neighbours(config.kernel))
        taps = neighbours.shape[-1]
        first = torch.arange(taps * codebooks, device="cpu").view(taps, codebooks) * codebook_size
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("positions", sinusoids(slices.shape, config.width), persistent=False)
        self.table = nn.Embedding(
            taps * codebooks * codebook_size, config.embedding
        )  # a convolution of codes in one-hot form
        self.bias = nn.Parameter(torch.zeros(config.embedding))
        self.slice = nn.Embedding(slices.count, config.embedding)
        self.project_in = nn.Linear(config.embedding, config.width, bias=False)
        self.blocks = nn.ModuleList(Block(config, slices.shape, causal=False) for _ in range(config.depth))

    def forward(self, indices: Tensor, seen: Tensor, index: Tensor) -> Tensor:
        """codes int64 and seen bool [B, slices, P, q]; index int64 [B] of the slice that each row asks for."""
        x = self.convolve(indices, seen, index) + self.bias + self.slice(index)[:, None]
        x = self.project_in(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return x

    def convolve(self, indices: Tensor, seen: Tensor, index: Tensor) -> Tensor:
        """[B, P, embedding]: a row of the table for each code that is seen, added up; nobody multiplies by zeros."""
        around = self.neighbours[index].flatten(1)  # [B, P * taps]
        indices, seen = (_gather(x, around).unflatten(1, self.neighbours.shape[1:]) for x in (indices, seen))
        rows = (indices + self.first).flatten(2)  # [B, P, taps * q]
        weights = seen.flatten(2).to(self.table.weight.dtype)
        summed = F.embedding_bag(
            rows.flatten(0, 1), self.table.weight, per_sample_weights=weights.flatten(0, 1), mode="sum"
        )
        return summed.view(*rows.shape[:2], -1)


def _gather(x: Tensor, places: Tensor) -> Tensor:
    """x [B, slices, P, q] at places [B, n] of [slices * P] -> [B, n, q]; zero outside of the clip."""
    x = F.pad(x.flatten(1, 2), (0, 0, 0, 1))
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
