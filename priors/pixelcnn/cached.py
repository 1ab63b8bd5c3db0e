"""The stack of `stack.py` a few locations at a time: a new token costs one location, not a volume.

It keeps the output of each layer at each location. When a scanline (a row of the grid) begins, what does not depend on
its own tokens is computed for all of it at once: the vertical stack, and what the horizontal one takes from that, from
the condition and from earlier steps. A location then costs only what is left of it, so few weights are read per token.
All arrays are allocated once.

B rows (volumes), n locations, P locations of a volume, m scanlines of w locations, D width, E width of a token's
vector, C width of the condition.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreel.priors.layers.cached_transformer import PackedLinear, cache_dtype
from tokenreel.priors.layers.transformer import Attention, merge_heads, split_heads
from tokenreel.priors.pixelcnn.masked import ALL, BoxConvolution, Shape
from tokenreel.priors.pixelcnn.stack import GatedLayer, Layer, Stack, gate


class Locations(NamedTuple):
    """n locations in each of m rows; a row may occur several times."""

    row: Tensor  # int64 [m, 1]
    at: Tensor  # int64 [m, n]


class CachedStack:
    """Computes the locations of one volume in each of B rows.

    `rows`, int64 [n rows], selects rows. A location may be computed again: none depends on locations after it.
    """

    def __init__(self, stack: Stack, rows: int) -> None:
        weight, locations = stack.previous_token.weight, len(stack.position_embedding)
        self.columns, self.norm, self.position_embedding = stack.shape[2], stack.norm, stack.position_embedding
        self.first = _CachedConvolution(stack.first, stack.shape)
        self.first_left = _CachedConvolution(stack.first_left, stack.shape)
        self.previous_token = PackedLinear(weight)
        self.vectors = _with_outside(weight, rows, locations, weight.shape[1])
        self.v = _with_outside(weight, rows, locations, weight.shape[0])  # output of the first layer
        self.layers = [_CachedLayer(layer, stack.shape, rows) for layer in stack.layers]  # type: ignore[arg-type]
        self.condition = weight.new_zeros(rows, locations, stack.condition_width)
        self.hidden = weight.new_zeros(rows, locations, weight.shape[0])  # of the locations computed so far

    def begin_volume(self, rows: Tensor, condition: Tensor) -> None:
        """Begins a volume in `rows`, with its condition [n rows, P, C]."""
        self.condition[rows] = condition.to(self.condition.dtype)

    def extend(self, rows: Tensor, at: Tensor, vectors: Tensor, scanlines: Tensor) -> None:
        """Computes locations `at` [n rows, n] of `rows`, increasing in each row, into `hidden`.

        `vectors` [n rows, n, E] are those of the tokens just before each; any for location 0. `scanlines`, int64
        [m, 2], are those that begin among the locations, as (row, index). A location that occurs twice must have the
        same vector.
        """
        locations = Locations(rows[:, None], at)
        self.vectors[locations.row, at - 1] = vectors  # before location 0 is the last one, which is the outside
        self.vectors[:, -1] = 0
        new = self._locations(scanlines) if len(scanlines) else None
        if new:
            self.v[new] = self.first(self.vectors, new)
        previous = self.previous_token.add(self.vectors[locations.row, at - 1], self.position_embedding[at])
        x, v = self.v[locations] + self.first_left(self.vectors, locations), self.v
        for layer in self.layers:
            layer.h[locations] = x
            if new:
                layer.begin(v, new, self.condition[new])
            x, v = layer.extend(x, previous, locations), layer.v
        self.hidden[locations] = self.norm(x)

    def _locations(self, scanlines: Tensor) -> Locations:
        columns = torch.arange(self.columns, device=scanlines.device)
        return Locations(scanlines[:, :1], scanlines[:, 1:] * self.columns + columns)


class _CachedLayer:
    """Keeps h, the input of the horizontal stack, v, the output of the vertical one, and `shared`: the part of the
    horizontal convolution that does not depend on the own scanline.
    """

    def __init__(self, layer: Layer, shape: Shape, rows: int) -> None:
        vertical, horizontal = layer.vertical, layer.horizontal
        self.above = _CachedConvolution(vertical.convolution, shape, context=vertical.context.weight)
        self.beside = _CachedConvolution(horizontal.convolution, shape, slice(1, None), horizontal.context.weight)
        self.left = _CachedConvolution(horizontal.convolution, shape, slice(1))
        self.vertical_out, self.horizontal_out = _packed_out(vertical), _packed_out(horizontal)
        locations, weight = shape[0] * shape[1] * shape[2], vertical.out.weight
        self.v, self.h = (_with_outside(weight, rows, locations, len(weight)) for _ in range(2))
        self.shared = weight.new_zeros(rows, locations, 2 * weight.shape[1])
        self.attention = None
        if layer.attention is not None and layer.norm is not None:
            self.attention = _CachedAttention(layer.attention, layer.norm, rows, locations)

    def begin(self, v: Tensor, scanlines: Locations, condition: Tensor) -> None:
        """Computes `v` and `shared` at `scanlines`, from v [B, P + 1, D] of the layer below, `condition` [m, w, C] and
        the h of earlier steps.
        """
        above = self.vertical_out.add(gate(self.above(v, scanlines, condition)), v[scanlines])
        self.v[scanlines] = above
        self.shared[scanlines] = self.beside(self.h, scanlines, torch.cat([above, condition], -1))

    def extend(self, x: Tensor, previous: Tensor, locations: Locations) -> Tensor:
        """The output at `locations` for the input x [n rows, n, D], which h must hold already."""
        x = self.horizontal_out.add(gate(self.left(self.h, locations) + self.shared[locations]), x)
        return x if self.attention is None else self.attention.extend(x, previous, locations)


class _CachedConvolution:
    """The selected boxes of a convolution, plus a linear layer of a context, at selected locations."""

    def __init__(
        self, convolution: BoxConvolution, shape: Shape, boxes: slice = ALL, context: Tensor | None = None
    ) -> None:
        weight = convolution.flat_weight(boxes)
        self.covered = convolution.covered(shape, boxes).to(weight.device)
        bias = convolution.bias if context is not None or boxes == ALL else None  # added where the context is
        self.linear = PackedLinear(weight if context is None else torch.cat([weight, context], 1), bias)

    def __call__(self, cache: Tensor, locations: Locations, context: Tensor | None = None) -> Tensor:
        """`cache` [B, P + 1, inputs], `context` [m, n, its width] -> [m, n, outputs]"""
        around = cache[locations.row[..., None], self.covered[locations.at]].flatten(2)
        inputs = around if context is None else torch.cat([around, context], -1)
        return self.linear(inputs).to(cache.dtype)  # autocast may have another dtype


class _CachedAttention:
    def __init__(self, attention: Attention, norm: torch.nn.Module, rows: int, locations: int) -> None:
        self.norm, self.heads = norm, attention.heads
        self.qkv = PackedLinear(attention.qkv.weight, attention.qkv.bias)
        self.out = PackedLinear(attention.out.weight, attention.out.bias)
        weight = attention.out.weight
        shape = (2, rows, self.heads, locations, weight.shape[0] // self.heads)
        self.keys, self.values = torch.zeros(shape, dtype=cache_dtype(weight), device=weight.device)

    def extend(self, x: Tensor, previous: Tensor, locations: Locations) -> Tensor:
        """x and the previous tokens' vectors at `locations`, both [n rows, n, D] -> [n rows, n, D]"""
        row, at = locations
        qkv = split_heads(self.qkv(self.norm(x) + previous), self.heads).to(self.keys.dtype)
        query, key, value = qkv.unbind(2)
        self.keys.transpose(1, 2)[locations] = key.transpose(1, 2)
        self.values.transpose(1, 2)[locations] = value.transpose(1, 2)
        used = int(at.max()) + 1 if at.device.type == "cpu" else self.keys.shape[2]
        visible = torch.arange(used, device=at.device) <= at[:, None, :, None]
        rows = slice(None) if len(row) == len(self.keys) else row[:, 0]
        mixed = F.scaled_dot_product_attention(query, self.keys[rows, :, :used], self.values[rows, :, :used], visible)
        return self.out.add(merge_heads(mixed).to(x.dtype), x)


def _packed_out(layer: GatedLayer) -> PackedLinear:
    return PackedLinear(layer.out.weight, layer.out.bias)


def _with_outside(like: Tensor, rows: int, locations: int, width: int) -> Tensor:
    """Zeros [B, P + 1, width]; the last location stands for all those outside of the volume."""
    return like.new_zeros(rows, locations + 1, width)
