"""The decoder of `priors/subscale/decoder.py` a few places at a time: a new code costs one place, not a slice.

Keys and values of a row's slice are kept, as are the vectors that the masked convolution reads; the encoder runs once
for each slice of a row. All arrays are allocated once. Knows vectors, places and slices, no order and no probabilities.

B rows, n places, P places of a slice, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreel.priors.layers.cached_transformer import PackedLinear
from tokenreel.priors.subscale.attention import Block, attend
from tokenreel.priors.subscale.decoder import Decoder


class CachedDecoder:
    """What the decoder makes of the places of one slice in each of B rows; every row has a slice of its own.

    Rows are named by `rows`, int64 [n rows]; places may be taken again: what lies after a place is never looked at.
    """

    def __init__(self, decoder: Decoder, rows: int) -> None:
        convolution = decoder.convolution
        weight, places = convolution.weight, len(convolution.places)
        self.places, self.positions = convolution.places, decoder.positions
        self.convolution = PackedLinear(convolution.flat_weight(), convolution.bias)
        self.context_layer = PackedLinear(decoder.context.weight)
        self.blocks = [_CachedBlock(block, rows, places) for block in decoder.blocks]  # type: ignore[arg-type]
        self.context = weight.new_zeros(rows, places, weight.shape[1])
        self.vectors = weight.new_zeros(rows, places + 1, weight.shape[2])  # the last one stands for outside: zero
        self.hidden = weight.new_zeros(rows, places, weight.shape[1])  # of the places computed so far

    def enter(self, rows: Tensor, encoded: Tensor) -> None:
        """Begins a slice in `rows`: what the encoder [n rows, P, D] says of it."""
        dtype = self.context.dtype  # autocast may have another, before and after a layer
        self.context[rows] = self.context_layer(encoded.to(dtype)).to(dtype)

    def extend(self, rows: Tensor, at: Tensor, vectors: Tensor) -> None:
        """Computes places `at` [n rows, n] of `rows`, rising in each row, into `hidden`.

        `vectors` [n rows, n, embedding] are those of the codes just before each; of place 0 any. A place that comes
        twice comes with the same vector.
        """
        row, before = rows[:, None], at - 1
        exists = before >= 0
        self.vectors[row, before.where(exists, len(self.places))] = vectors.where(exists[..., None], 0)
        around = self.vectors[row[..., None], self.places[at]].flatten(2)
        x = self.convolution.add(around, self.context[row, at] + self.positions[at])
        for block in self.blocks:
            x = block.extend(x, row, at)
        self.hidden[row, at] = x


class _CachedBlock:
    def __init__(self, block: Block, rows: int, places: int) -> None:
        attention = block.attention
        self.attention, self.norm = attention, block.norm
        self.project = PackedLinear(attention.projection())
        self.out = PackedLinear(attention.out.weight)
        self.expand = PackedLinear(block.expand.weight, block.expand.bias)
        self.contract = PackedLinear(block.contract.weight, block.contract.bias)
        # float32 on a CPU in any case: attention to one query in bfloat16 is slower there
        weight = attention.out.weight
        dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
        self.bias = attention.bias().to(dtype)
        value = torch.zeros(rows, places, attention.heads, attention.head_width, dtype=dtype, device=weight.device)
        keys = {"query-key": [value.clone()], "key": [value[..., 0].clone()], "relative": []}[attention.kind]
        self.kept = [*keys, value]  # keys, or scores that ask nobody, where there are any

    def extend(self, x: Tensor, row: Tensor, at: Tensor) -> Tensor:
        """x [n rows, n, D] of places `at` [n rows, n] of rows `row` [n rows, 1]."""
        projected = self.project(self.attention.norm(x)).to(self.bias.dtype)
        mixed = self._attend(projected, row, at).transpose(1, 2).flatten(2)
        x = self.out.add(mixed.to(x.dtype), x)
        return self.contract.add(self.expand.relu(self.norm(x)), x)

    def _attend(self, projected: Tensor, row: Tensor, at: Tensor) -> Tensor:
        """Keeps what later places need of `projected` and attends: [n rows, heads, n, d]."""
        asking, value = self.attention.split(projected)
        for kept, new in zip(self.kept, (*asking[-1:], value), strict=True):
            kept[row, at] = new.transpose(1, 2)
        used = int(at.max()) + 1 if at.device.type == "cpu" else self.bias.shape[-1]
        *key, value = (self._of_rows(k[:, :used], row).transpose(1, 2) for k in self.kept)
        return attend((*asking[:-1], *key), value, self.bias[:, at, :used].transpose(0, 1))

    @staticmethod
    def _of_rows(kept: Tensor, row: Tensor) -> Tensor:
        return kept if len(row) == len(kept) else kept[row[:, 0]]
