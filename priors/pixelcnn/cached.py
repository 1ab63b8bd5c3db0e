"""The stack of `priors/pixelcnn/stack.py` a few places at a time: a new code costs one place, not a volume.

What each layer made of each place is kept. When a line (a row of the grid) begins, all that its places share is
computed at once: the vertical stack, and what the horizontal one takes from it, from the condition and from earlier
steps. A place then costs what lies left of it, so few weights are read for a code. All arrays are allocated once. Knows
vectors and places, no order and no probabilities.

B rows (volumes), n places, P places of a volume, m lines of w places, D width, R what a convolution gives, C width of
the condition.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreel.priors.layers.cached_transformer import PackedLinear
from tokenreel.priors.layers.transformer import Attention, merge_heads, split_heads
from tokenreel.priors.pixelcnn.masked import ALL, BoxConvolution, Shape
from tokenreel.priors.pixelcnn.stack import GatedLayer, Layer, Stack, gate


class Places(NamedTuple):
    """n places in each of m rows; a row may come several times."""

    row: Tensor  # int64 [m, 1]
    at: Tensor  # int64 [m, n]


class CachedStack:
    """What the stack makes of the places of one volume in each of B rows.

    Rows are named by `rows`, int64 [n rows]; places may be taken again: what lies after a place is never looked at.
    """

    def __init__(self, stack: Stack, rows: int) -> None:
        weight, places = stack.word.weight, len(stack.positions)
        self.columns, self.norm, self.positions = stack.shape[2], stack.norm, stack.positions
        self.first = _CachedConvolution(stack.first, stack.shape)
        self.first_left = _CachedConvolution(stack.first_left, stack.shape)
        self.word = PackedLinear(weight)
        self.vectors = _with_outside(weight, rows, places, weight.shape[1])
        self.v = _with_outside(weight, rows, places, weight.shape[0])  # what the first layer makes
        self.layers = [_CachedLayer(layer, stack.shape, rows) for layer in stack.layers]  # type: ignore[arg-type]
        self.condition = weight.new_zeros(rows, places, stack.condition_width)
        self.hidden = weight.new_zeros(rows, places, weight.shape[0])  # of the places computed so far

    def enter(self, rows: Tensor, condition: Tensor) -> None:
        """Begins a volume in `rows`: its condition [n rows, P, C]."""
        self.condition[rows] = condition.to(self.condition.dtype)

    def extend(self, rows: Tensor, at: Tensor, vectors: Tensor, lines: Tensor) -> None:
        """Computes places `at` [n rows, n] of `rows`, rising in each row, into `hidden`.

        `vectors` [n rows, n, E] are those of the codes just before each; of place 0 any. `lines` int64 [m, 2], of which
        row and which one, are those that begin among the places. A place that comes twice comes with the same vector.
        """
        places = Places(rows[:, None], at)
        self.vectors[places.row, at - 1] = vectors  # before place 0 is the last one, which stands for outside
        self.vectors[:, -1] = 0
        begun = self._lines(lines) if len(lines) else None
        if begun:
            self.v[begun] = self.first(self.vectors, begun)
        word = self.word.add(self.vectors[places.row, at - 1], self.positions[at])
        x, v = self.v[places] + self.first_left(self.vectors, places), self.v
        for layer in self.layers:
            layer.h[places] = x
            if begun:
                layer.begin(v, begun, self.condition[begun])
            x, v = layer.extend(x, word, places), layer.v
        self.hidden[places] = self.norm(x)

    def _lines(self, lines: Tensor) -> Places:
        return Places(lines[:, :1], lines[:, 1:] * self.columns + torch.arange(self.columns, device=lines.device))


class _CachedLayer:
    """Its input to the horizontal stack, its output of the vertical one, and what lines share in the horizontal one."""

    def __init__(self, layer: Layer, shape: Shape, rows: int) -> None:
        vertical, horizontal = layer.vertical, layer.horizontal
        self.above = _CachedConvolution(vertical.convolution, shape, context=vertical.context.weight)
        self.beside = _CachedConvolution(horizontal.convolution, shape, slice(1, None), horizontal.context.weight)
        self.left = _CachedConvolution(horizontal.convolution, shape, slice(1))
        self.vertical_out, self.horizontal_out = _packed_out(vertical), _packed_out(horizontal)
        places, weight = shape[0] * shape[1] * shape[2], vertical.out.weight
        self.v, self.h = (_with_outside(weight, rows, places, len(weight)) for _ in range(2))
        self.shared = weight.new_zeros(rows, places, 2 * weight.shape[1])
        self.attention = None
        if layer.attention is not None and layer.norm is not None:
            self.attention = _CachedAttention(layer.attention, layer.norm, rows, places)

    def begin(self, v: Tensor, lines: Places, condition: Tensor) -> None:
        """Computes `lines` from v [B, P + 1, D] of the layer below and `condition` [m, w, C]; h must hold its input."""
        above = self.vertical_out.add(gate(self.above(v, lines, condition)), v[lines])
        self.v[lines] = above
        self.shared[lines] = self.beside(self.h, lines, torch.cat([above, condition], -1))

    def extend(self, x: Tensor, word: Tensor, places: Places) -> Tensor:
        """x [n rows, n, D], the input at `places`, which h holds already -> the output there."""
        x = self.horizontal_out.add(gate(self.left(self.h, places) + self.shared[places]), x)
        return x if self.attention is None else self.attention.extend(x, word, places)


class _CachedConvolution:
    """Some boxes of a convolution, and a product with a context beside, at chosen places."""

    def __init__(
        self, convolution: BoxConvolution, shape: Shape, boxes: slice = ALL, context: Tensor | None = None
    ) -> None:
        weight = convolution.flat_weight(boxes)
        self.places = convolution.places(shape, boxes).to(weight.device)
        bias = convolution.bias if context is not None or boxes == ALL else None  # added where the context is
        self.linear = PackedLinear(weight if context is None else torch.cat([weight, context], 1), bias)

    def __call__(self, kept: Tensor, places: Places, context: Tensor | None = None) -> Tensor:
        """kept [B, P + 1, inputs], context [m, n, its width] -> [m, n, outputs]"""
        around = kept[places.row[..., None], self.places[places.at]].flatten(2)
        inputs = around if context is None else torch.cat([around, context], -1)
        return self.linear(inputs).to(kept.dtype)  # autocast may have narrowed it


class _CachedAttention:
    def __init__(self, attention: Attention, norm: torch.nn.Module, rows: int, places: int) -> None:
        self.norm, self.heads = norm, attention.heads
        self.qkv = PackedLinear(attention.qkv.weight, attention.qkv.bias)
        self.out = PackedLinear(attention.out.weight, attention.out.bias)
        weight = attention.out.weight
        # float32 on a CPU in any case: attention to one query in bfloat16 is slower there
        dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
        shape = (2, rows, self.heads, places, weight.shape[0] // self.heads)
        self.keys, self.values = torch.zeros(shape, dtype=dtype, device=weight.device)

    def extend(self, x: Tensor, word: Tensor, places: Places) -> Tensor:
        """x [n rows, n, D] and the words [n rows, n, D] at `places` -> [n rows, n, D]"""
        row, at = places
        qkv = split_heads(self.qkv(self.norm(x) + word), self.heads).to(self.keys.dtype)
        query, key, value = qkv.unbind(2)
        self.keys.transpose(1, 2)[places] = key.transpose(1, 2)
        self.values.transpose(1, 2)[places] = value.transpose(1, 2)
        used = int(at.max()) + 1 if at.device.type == "cpu" else self.keys.shape[2]
        seen = torch.arange(used, device=at.device) <= at[:, None, :, None]
        rows = slice(None) if len(row) == len(self.keys) else row[:, 0]
        mixed = F.scaled_dot_product_attention(query, self.keys[rows, :, :used], self.values[rows, :, :used], seen)
        return self.out.add(merge_heads(mixed).to(x.dtype), x)


def _packed_out(layer: GatedLayer) -> PackedLinear:
    return PackedLinear(layer.out.weight, layer.out.bias)


def _with_outside(like: Tensor, rows: int, places: int, width: int) -> Tensor:
    """Zeros [B, P + 1, width]; the last place stands for all that lie outside of the volume."""
    return like.new_zeros(rows, places + 1, width)
