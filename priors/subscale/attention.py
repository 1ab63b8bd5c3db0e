"""Self-attention over the places of a slice, in the three kinds of LVT, section 4.4, and the blocks made of it.

Weights are proportional to exp(score + b), where b is learnt for each head and distance in time, rows and columns, and
the score of key k for query q is, by kind: `query-key` x_q Q K x_k, `key` u K x_k with a learnt vector u, `relative` 0.
Every place of a slice attends to the whole slice, or, in a decoder, to itself and the places before it.

N slices, P places of a slice, D width, d width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.subscale.config import SubscaleTransformerConfig


class RelativeBias(nn.Module):
    """b, a sum of three tables over the distance along each axis; zero at first, as in the public code."""

    def __init__(self, heads: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.tables = nn.ParameterList(nn.Parameter(torch.zeros(heads, 2 * size - 1)) for size in shape)

    def forward(self) -> Tensor:
        """[heads, P, P], query before key."""
        t, h, w = (self._along(axis) for axis in range(3))
        total = (
            t[:, :, None, None, :, None, None] + h[:, None, :, None, None, :, None] + w[:, None, None, :, None, None, :]
        )
        places = self.shape[0] * self.shape[1] * self.shape[2]
        return total.reshape(-1, places, places)

    def _along(self, axis: int) -> Tensor:
        """[heads, size, size] along one axis."""
        table, size = self.tables[axis], self.shape[axis]
        line = torch.arange(size, device=table.device)
        return table[:, line[:, None] - line + size - 1]


class Attention(nn.Module):
    """Multi-head self-attention on a normalised copy, [N, P, D] -> [N, P, D]; no biases in its projections.

    The heads may be wider together than D: the paper's are, 8 x 128 for D = 512.
    """

    def __init__(self, config: SubscaleTransformerConfig, shape: tuple[int, int, int], causal: bool) -> None:
        super().__init__()
        self.heads, self.head_width, self.kind, self.causal = config.heads, config.head_width, config.attention, causal
        inner, parts = config.heads * config.head_width, {"query-key": 3, "key": 2, "relative": 1}[config.attention]
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, parts * inner, bias=False)  # queries, keys, values
        self.asked = nn.Parameter(torch.empty(config.heads, config.head_width)) if self.kind == "key" else None  # u
        self.relative = RelativeBias(config.heads, shape)
        self.out = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        asking, value = self.split(F.linear(self.norm(x), self.projection()))
        mixed = attend(asking, value, self.bias())
        return x + self.out(mixed.transpose(1, 2).flatten(2))

    def projection(self) -> Tensor:
        """[rows, D]: what x is multiplied by. Of `key` only u K is needed, one row a head: the keys never are."""
        if self.asked is None:
            return self.project.weight
        key, value = self.project.weight.unflatten(0, (2, self.heads, self.head_width))
        asked = torch.einsum("hd,hdw->hw", self.asked * self.head_width**-0.5, key)
        return torch.cat([asked, value.flatten(0, 1)])

    def split(self, projected: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """[N, P, rows] -> what scores are made of, and values [N, heads, P, d].

        For `query-key` queries and keys [N, heads, P, d], for `key` the scores [N, heads, P], for `relative` nothing.
        """
        if self.kind == "query-key":
            query, key, value = projected.unflatten(-1, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)
            return (query, key), value
        inner = self.heads * self.head_width
        value = projected[..., -inner:].unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)
        return ((projected[..., :-inner].transpose(1, 2),) if self.kind == "key" else ()), value

    def bias(self) -> Tensor:
        """b [heads, P, P], -inf where a place may not look."""
        bias = self.relative()
        if not self.causal:
            return bias
        later = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).triu(1)
        return bias.masked_fill(later, -torch.inf)


def attend(asking: tuple[Tensor, ...], value: Tensor, bias: Tensor) -> Tensor:
    """Values [N, heads, P, d] mixed for n queries, [N, heads, n, d], out of what `Attention.split` gives.

    `bias` is [heads, n, P], or [N, heads, n, P].
    """
    if len(asking) == 2:
        query, key = asking
        if value.device.type != "cpu" or not torch.is_grad_enabled():
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        # where a CPU has to train the bias, torch's own attention computes in float32, whatever comes in
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias
    else:
        scores = bias + asking[0][:, :, None] if asking else bias
    weights = scores.softmax(-1).to(value.dtype)
    if weights.ndim == 4:
        return weights @ value
    return torch.einsum("hqk,nhkd->nhqd", weights, value)  # one product for all N; @ would copy the weights N times


class Block(nn.Module):
    """Attention, then an MLP of width D on a normalised copy, both added to x [N, P, D]."""

    def __init__(self, config: SubscaleTransformerConfig, shape: tuple[int, int, int], causal: bool) -> None:
        super().__init__()
        self.attention = Attention(config, shape, causal)
        self.norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.width)
        self.contract = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return x + self.contract(F.relu(self.expand(self.norm(x))))
