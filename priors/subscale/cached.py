"""The decoder of `decoder.py` a few locations at a time: a new token costs one location, not a slice.

It keeps the keys and values of each row's slice, and the vectors that the masked convolution reads; the encoder runs
once per slice of a row. All arrays are allocated once.

B rows, n locations, P locations of a slice, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreel.priors.layers.cached_transformer import PackedLinear, cache_dtype
from tokenreel.priors.subscale.attention import Block, attend
from tokenreel.priors.subscale.decoder import Decoder


class CachedDecoder:
    """Computes the locations of one slice in each of B rows; every row has its own slice.

    `rows`, int64 [n rows], selects rows. A location may be computed again: none depends on locations after it.
    """

    def __init__(self, decoder: Decoder, rows: int) -> None:
        convolution = decoder.convolution
        weight, locations = convolution.weight, len(convolution.covered)
        self.covered, self.position_embedding = convolution.covered, decoder.position_embedding
        self.convolution = PackedLinear(convolution.flat_weight(), convolution.bias)
        self.context_layer = PackedLinear(decoder.context.weight)
        self.blocks = [_CachedBlock(block, rows, locations) for block in decoder.blocks]  # type: ignore[arg-type]
        self.context = weight.new_zeros(rows, locations, weight.shape[1])
        self.vectors = weight.new_zeros(rows, locations + 1, weight.shape[2])  # the last one, zero, is the outside
        self.hidden = weight.new_zeros(rows, locations, weight.shape[1])  # of the locations computed so far

    def begin_slice(self, rows: Tensor, encoded: Tensor) -> None:
        """Begins a slice in `rows`, with the encoder's output [n rows, P, D] for it."""
        dtype = self.context.dtype  # autocast may have another, before and after a layer
        self.context[rows] = self.context_layer(encoded.to(dtype)).to(dtype)

    def extend(self, rows: Tensor, at: Tensor, vectors: Tensor) -> None:
        """Computes locations `at` [n rows, n] of `rows`, increasing in each row, into `hidden`.

        `vectors` [n rows, n, embedding] are those of the tokens just before each; any for location 0. A location that
        occurs twice must have the same vector.
        """
        row, before = rows[:, None], at - 1
        exists = before >= 0
        self.vectors[row, before.where(exists, len(self.covered))] = vectors.where(exists[..., None], 0)
        around = self.vectors[row[..., None], self.covered[at]].flatten(2)
        x = self.convolution.add(around, self.context[row, at] + self.position_embedding[at])
        for block in self.blocks:
            x = block.extend(x, row, at)
        self.hidden[row, at] = x


class _CachedBlock:
    def __init__(self, block: Block, rows: int, locations: int) -> None:
        attention = block.attention
        self.attention, self.norm = attention, block.norm
        self.project = PackedLinear(attention.projection())
        self.out = PackedLinear(attention.out.weight)
        self.fc1 = PackedLinear(block.fc1.weight, block.fc1.bias)
        self.fc2 = PackedLinear(block.fc2.weight, block.fc2.bias)
        weight = attention.out.weight
        dtype = cache_dtype(weight)
        self.bias = attention.bias().to(dtype)
        value = torch.zeros(rows, locations, attention.heads, attention.head_width, dtype=dtype, device=weight.device)
        keys = {"query-key": [value.clone()], "key": [value[..., 0].clone()], "relative": []}[attention.kind]
        self.cache = [*keys, value]  # keys, or the scores of `key`, then values

    def extend(self, x: Tensor, row: Tensor, at: Tensor) -> Tensor:
        """x [n rows, n, D] of locations `at` [n rows, n] of rows `row` [n rows, 1]."""
        projected = self.project(self.attention.norm(x)).to(self.bias.dtype)
        mixed = self._attend(projected, row, at).transpose(1, 2).flatten(2)
        x = self.out.add(mixed.to(x.dtype), x)
        return self.fc2.add(self.fc1.relu(self.norm(x)), x)

    def _attend(self, projected: Tensor, row: Tensor, at: Tensor) -> Tensor:
        """Caches the keys and values in `projected`, and attends: [n rows, heads, n, d]."""
        score_terms, value = self.attention.split(projected)
        for cache, new in zip(self.cache, (*score_terms[-1:], value), strict=True):
            cache[row, at] = new.transpose(1, 2)
        used = int(at.max()) + 1 if at.device.type == "cpu" else self.bias.shape[-1]
        *key, value = (self._select(cache[:, :used], row).transpose(1, 2) for cache in self.cache)
        return attend((*score_terms[:-1], *key), value, self.bias[:, at, :used].transpose(0, 1))

    @staticmethod
    def _select(cache: Tensor, row: Tensor) -> Tensor:
        return cache if len(row) == len(cache) else cache[row[:, 0]]
