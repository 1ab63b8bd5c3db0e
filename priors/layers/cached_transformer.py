"""The transformer of `transformer.py` a few slots at a time, from a key/value cache whose shape never changes.

Made for sampling: weights are read once for each new slot, so this is about how they lie in memory. Knows vectors and
slots only.

B rows, n new slots, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreel.priors.layers.transformer import Block, Transformer, merge_heads, split_heads

_SMALLEST = 1 << 17  # numbers of a float32 weight; with fewer, calling oneDNN (14 us) takes longer than the product
_VECTORS = 16  # in a call, for which the layout is made: one made for a single vector is slower, even for that one


class PackedLinear:
    """A linear layer without gradients whose weights, on a CPU, lie as oneDNN wants them.

    torch's own layer reads them row by row, which takes about twice as long for one vector or a few, in float32 and in
    bfloat16. Later changes of the layer are not seen.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.detach(), bias
        self.packed = _can_pack(self.weight)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), _VECTORS)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(layer(x)): the activation alone would cost as much as a small layer."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")
        return F.gelu(self(x))

    def relu(self, x: Tensor) -> Tensor:
        """relu(layer(x))"""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "relu", [], "")
        return F.relu(self(x))

    def add(self, x: Tensor, base: Tensor) -> Tensor:
        """base + layer(x)"""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise.binary(x, base, self.weight, self.bias, "add")
        return base + self(x)


class CachedTransformer:
    """Keys and values of `slots` slots for each of B rows, and what it takes to add to them.

    Rows are independent, and a slot may be taken again: what lies in slots after a vector's own is never looked at.
    """

    def __init__(self, transformer: Transformer, rows: int, slots: int) -> None:
        self.norm = transformer.norm
        self.rows = torch.arange(rows, device=transformer.norm.weight.device)[:, None]
        self.blocks = [_CachedBlock(block, rows, slots) for block in transformer.blocks]  # type: ignore[arg-type]
        self.slots = slots

    def extend(self, x: Tensor, slots: Tensor) -> Tensor:
        """Vectors [B, n, D] for slots [B or 1, n] -> what the transformer makes of them, [B, n, D]."""
        seen = torch.arange(self._used(slots), device=slots.device) <= slots[:, None, :, None]
        bias = torch.where(seen, 0.0, -torch.inf).to(self.blocks[0].cache.dtype)
        for block in self.blocks:
            x = block.extend(x, (self.rows, slots), bias)
        return self.norm(x)

    def _used(self, slots: Tensor) -> int:
        """How many slots to attend to: on a CPU up to the last in use, elsewhere all, because asking which that is
        costs a wait for the device, and a shape that changes cannot be captured in a graph.
        """
        return int(slots.max()) + 1 if slots.device.type == "cpu" else self.slots


class _CachedBlock:
    def __init__(self, block: Block, rows: int, slots: int) -> None:
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        layers = (block.attention.qkv, block.attention.out, block.expand, block.contract)
        self.qkv, self.out, self.expand, self.contract = (PackedLinear(layer.weight, layer.bias) for layer in layers)
        weight, self.heads = block.expand.weight, block.attention.heads
        # float32 on a CPU in any case: torch's attention to one query takes 2.6 times as long in bfloat16 there
        dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
        shape = (rows, self.heads, 2, slots, weight.shape[1] // self.heads)
        self.cache = torch.zeros(shape, dtype=dtype, device=weight.device)  # keys and values
        self.cache_by_slot = self.cache.permute(0, 3, 1, 2, 4)

    def extend(self, x: Tensor, where: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        x = self.out.add(self._attend(self.qkv(self.attention_norm(x)), where, bias).to(x.dtype), x)
        return self.contract.add(self.expand.gelu(self.mlp_norm(x)), x)

    def _attend(self, qkv: Tensor, where: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """Writes keys and values of qkv [B, n, 3 D] to slots `where`; `bias` is [B or 1, 1, n, slots in use]."""
        heads = split_heads(qkv.to(self.cache.dtype), self.heads)
        self.cache_by_slot[where] = heads[:, :, 1:].permute(0, 3, 1, 2, 4)
        key, value = self.cache[..., : bias.shape[-1], :].unbind(2)
        return merge_heads(_attend(heads[:, :, 0], key, value, bias))


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(d) + bias) value; all [B, heads, n or slots, d]."""
    if query.shape[2] > 1 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    # for one query two products are 1.4 times as fast, if the keys, the larger factor, come first
    scores = (key @ (query * query.shape[-1] ** -0.5).transpose(2, 3)).transpose(2, 3)
    return (scores + bias).softmax(-1) @ value


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not weight.numel() or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.float32:
        return weight.numel() >= _SMALLEST
    return weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
