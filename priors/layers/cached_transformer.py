"""The transformer of `transformer.py` a few slots at a time, with a key/value cache of fixed shape, for sampling.

Each new slot reads all weights once, so speed depends on their layout in memory.

B rows, n new slots, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreel.priors.layers.transformer import Block, Transformer, merge_heads, split_heads

_MIN_PACKED_SIZE = 1 << 17  # elements of a float32 weight; below, calling oneDNN (14 us) takes longer than the product
_LAYOUT_VECTORS = 16  # per call, for which the layout is made: a layout for a single vector is slower, even for one


class PackedLinear:
    """A linear layer without gradients whose weights, on a CPU, are in oneDNN's own layout.

    For one vector or a few that is about twice as fast as torch's layer, in float32 and in bfloat16. The weights are
    copied: later changes to the layer have no effect.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.detach(), bias
        self.packed = _can_pack(self.weight)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), _LAYOUT_VECTORS)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(layer(x)); the activation alone would cost as much as a small layer."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")
        return F.gelu(self(x))

    def relu(self, x: Tensor) -> Tensor:
        """relu(layer(x))."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "relu", [], "")
        return F.relu(self(x))

    def add(self, x: Tensor, base: Tensor) -> Tensor:
        """base + layer(x)"""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise.binary(x, base, self.weight, self.bias, "add")
        return base + self(x)


class CachedTransformer:
    """Computes `slots` slots for each of B rows, a few at a time, and keeps their keys and values.

    Rows are independent. A slot may be written again: a vector never attends to slots after its own.
    """

    def __init__(self, transformer: Transformer, rows: int, slots: int) -> None:
        self.norm = transformer.norm
        self.rows = torch.arange(rows, device=transformer.norm.weight.device)[:, None]
        self.blocks = [_CachedBlock(block, rows, slots) for block in transformer.blocks]  # type: ignore[arg-type]
        self.slots = slots

    def extend(self, x: Tensor, slots: Tensor) -> Tensor:
        """The transformer's outputs [B, n, D] for inputs [B, n, D] at `slots` [B or 1, n]."""
        visible = torch.arange(self._used(slots), device=slots.device) <= slots[:, None, :, None]
        bias = torch.where(visible, 0.0, -torch.inf).to(self.blocks[0].cache.dtype)
        for block in self.blocks:
            x = block.extend(x, (self.rows, slots), bias)
        return self.norm(x)

    def _used(self, slots: Tensor) -> int:
        """How many slots to attend to: on a CPU up to the last in use, elsewhere all, as finding the last one would
        synchronise with the device, and a changing shape cannot be captured in a graph.
        """
        return int(slots.max()) + 1 if slots.device.type == "cpu" else self.slots


class _CachedBlock:
    def __init__(self, block: Block, rows: int, slots: int) -> None:
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        layers = (block.attention.qkv, block.attention.out, block.fc1, block.fc2)
        self.qkv, self.out, self.fc1, self.fc2 = (PackedLinear(layer.weight, layer.bias) for layer in layers)
        weight, self.heads = block.fc1.weight, block.attention.heads
        shape = (rows, self.heads, 2, slots, weight.shape[1] // self.heads)
        self.cache = torch.zeros(shape, dtype=cache_dtype(weight), device=weight.device)  # keys and values
        self.cache_by_slot = self.cache.permute(0, 3, 1, 2, 4)

    def extend(self, x: Tensor, index: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        x = self.out.add(self._attend(self.qkv(self.attention_norm(x)), index, bias).to(x.dtype), x)
        return self.fc2.add(self.fc1.gelu(self.mlp_norm(x)), x)

    def _attend(self, qkv: Tensor, index: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """Writes keys and values of qkv [B, n, 3 D] at `index` (rows, slots); `bias` is [B or 1, 1, n, slots used]."""
        heads = split_heads(qkv.to(self.cache.dtype), self.heads)
        self.cache_by_slot[index] = heads[:, :, 1:].permute(0, 3, 1, 2, 4)
        key, value = self.cache[..., : bias.shape[-1], :].unbind(2)
        return merge_heads(_attend(heads[:, :, 0], key, value, bias))


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(d) + bias) value; all [B, heads, n or slots, d]."""
    if query.shape[2] > 1 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    # for one query two products are 1.4 times as fast, provided that the keys, the larger factor, come first
    scores = (key @ (query * query.shape[-1] ** -0.5).transpose(2, 3)).transpose(2, 3)
    return (scores + bias).softmax(-1) @ value


def cache_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which a model of such weights caches keys and values: that of the weights, on a CPU float32, where
    torch's attention for one query takes 2.6 times as long in bfloat16.
    """
    return torch.float32 if weight.device.type == "cpu" else weight.dtype


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not weight.numel() or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.float32:
        return weight.numel() >= _MIN_PACKED_SIZE
    return weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
