"""A causal transformer over vectors: pre-norm blocks of attention and MLP (GPT-2; CCVS section 3.3 uses the same).

It computes whole sequences; `cached_transformer.py` computes the same a few slots at a time.

B rows, L slots, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.layers.recompute import Recomputable
from tokenreel.sample_random import SampleRandom


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

    def forward(self, x: Tensor, random: SampleRandom | None = None) -> Tensor:
        x = x + self._dropout(self.attention(self.attention_norm(x)), random)
        return x + self._dropout(self.fc2(F.gelu(self.fc1(self.mlp_norm(x)))), random)

    def _dropout(self, x: Tensor, random: SampleRandom | None) -> Tensor:
        return dropout(x, self.dropout, random) if self.training and self.dropout else x


class Transformer(Recomputable):
    """`depth` blocks and a last norm, [B, L, D] -> [B, L, D]; a slot attends to itself and those before it."""

    def __init__(self, depth: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, random: SampleRandom | None = None) -> Tensor:
        """`random` has the dropout masks of training."""
        if self.training and self.dropout:
            x = dropout(x, self.dropout, random)
        else:
            random = None
        for block in self.blocks:
            x = self.run_block(block, x, random=random)
        return self.norm(x)


def split_heads(qkv: Tensor, heads: int) -> Tensor:
    """[B, L, 3 D] -> queries, keys and values [B, heads, 3, L, D / heads]."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(0, 3, 2, 1, 4)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, L, D / heads] -> [B, L, D]"""
    return x.transpose(1, 2).flatten(2)


def dropout(x: Tensor, p: float, random: SampleRandom | None) -> Tensor:
    """Dropout [B, ...] with a mask for each sample from `random` (None: any), whatever process the sample is in."""
    random = random or SampleRandom.unrepeatable(len(x), x.device)
    return x * random.bernoulli(1 - p, *x.shape[1:], dtype=x.dtype).div_(1 - p)
