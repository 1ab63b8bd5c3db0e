"""The encoder of the Video Transformer (LVT, section 3.2): what conditions a slice's decoder.

A convolution centred on each location of the slice reads the tokens of earlier slices and given tokens in any slice;
all others are absent. Position embeddings are added as in the decoder (the published code constructs them here but
does not use them), and blocks of attention over the whole slice follow.

B rows, each with its own slice; P locations of a slice, q codebooks, K codebook size, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.layers.positions import sinusoids
from tokenreel.priors.layers.recompute import Recomputable
from tokenreel.priors.subscale.attention import Block
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.slices import Slices


class Encoder(Recomputable):
    """Tokens of a clip and which of them are visible -> a vector for each location of one slice, [B, P, D]."""

    neighbours: Tensor  # int64 [slices, P, taps]
    offset: Tensor  # int64 [taps, q], row of the table of token 0
    position_embedding: Tensor  # [P, D]

    def __init__(self, config: SubscaleTransformerConfig, slices: Slices, codebook_size: int, codebooks: int) -> None:
        super().__init__()
        neighbours = torch.from_numpy(slices.neighbours(config.kernel))
        taps = neighbours.shape[-1]
        offset = torch.arange(taps * codebooks, device="cpu").view(taps, codebooks) * codebook_size
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("position_embedding", sinusoids(slices.shape, config.width), persistent=False)
        # the weights of a convolution over one-hot tokens
        self.table = nn.Embedding(taps * codebooks * codebook_size, config.embedding)
        self.bias = nn.Parameter(torch.zeros(config.embedding))
        self.slice = nn.Embedding(slices.count, config.embedding)
        self.project_in = nn.Linear(config.embedding, config.width, bias=False)
        self.blocks = nn.ModuleList(Block(config, slices.shape, causal=False) for _ in range(config.depth))

    def forward(self, indices: Tensor, visible: Tensor, index: Tensor) -> Tensor:
        """`indices` int64 and `visible` bool [B, slices, P, q], for slice `index`, int64 [B], of each row."""
        x = self.convolve(indices, visible, index) + self.bias + self.slice(index)[:, None]
        x = self.project_in(x) + self.position_embedding
        for block in self.blocks:
            x = self.run_block(block, x)
        return x

    def convolve(self, indices: Tensor, visible: Tensor, index: Tensor) -> Tensor:
        """[B, P, embedding]: the sum of one row of the table per visible token, instead of a product with zeros."""
        around = self.neighbours[index].flatten(1)  # [B, P * taps]
        indices, visible = (_gather(x, around).unflatten(1, self.neighbours.shape[1:]) for x in (indices, visible))
        rows = (indices + self.offset).flatten(2)  # [B, P, taps * q]
        weights = visible.flatten(2).to(self.table.weight.dtype)
        summed = F.embedding_bag(
            rows.flatten(0, 1), self.table.weight, per_sample_weights=weights.flatten(0, 1), mode="sum"
        )
        return summed.view(*rows.shape[:2], -1)


def _gather(x: Tensor, locations: Tensor) -> Tensor:
    """x [B, slices, P, q] at `locations` [B, n] of [slices * P] -> [B, n, q]; zero outside of the clip."""
    x = F.pad(x.flatten(1, 2), (0, 0, 0, 1))
    return x.gather(1, locations[..., None].expand(-1, -1, x.shape[-1]))
