"""A causal transformer over vectors: pre-norm blocks of attention and MLP (GPT-2; CCVS section 3.3 uses the same).

It computes whole sequences; `cached_transformer.py` computes the same a few slots at a time.

B rows, L slots, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head causal self-attention [B, L, D] -> [B, L, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = split_heads(self.qkv(x), self.heads).unbind(2)
        return self.out(merge_heads(F.scaled_dot_product_attention(query, key, value, is_causal=True)))


class Block(nn.Module):
    """x + attention, then x + MLP, each on a layer-normed copy."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        x = x + self._dropout(self.attention(self.attention_norm(x)), generator)
        return x + self._dropout(self.fc2(F.gelu(self.fc1(self.mlp_norm(x)))), generator)

    def _dropout(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return dropout(x, self.dropout, generator) if self.training and self.dropout else x


class Transformer(nn.Module):
    """`depth` blocks and a last norm, [B, L, D] -> [B, L, D]; a slot attends to itself and those before it."""

    def __init__(self, depth: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`generator` samples the dropout masks in training (default: torch's global one)."""
        if self.training and self.dropout:
            x = dropout(x, self.dropout, generator)
        for block in self.blocks:
            x = block(x, generator)
        return self.norm(x)


def split_heads(qkv: Tensor, heads: int) -> Tensor:
    """[B, L, 3 D] -> queries, keys and values [B, heads, 3, L, D / heads]."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(0, 3, 2, 1, 4)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, L, D / heads] -> [B, L, D]"""
    return x.transpose(1, 2).flatten(2)


def dropout(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Dropout with a mask from `generator`, which torch's does not take: so a training step can be repeated."""
    mask = torch.empty_like(x, requires_grad=False).bernoulli_(1 - p, generator=generator)
    return x * mask.div_(1 - p)
