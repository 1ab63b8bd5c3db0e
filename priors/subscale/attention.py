"""Self-attention over the locations of a slice, in the three kinds of LVT, section 4.4, and the blocks made of it.

Weights are proportional to exp(score + b), where b is learned for each head and distance in time, rows and columns. The
score of location k for location q depends on the kind: `query-key` x_q Q K x_k; `key` u K x_k with a learned query u;
`relative` 0. A location attends to the whole slice, or, in a decoder, to itself and the locations before it.

N slices, P locations of a slice, D width, d width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.subscale.config import SubscaleTransformerConfig


class RelativeBias(nn.Module):
    """b, the sum of one table per axis, by distance along it; initialised to zero, as in the published code."""

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
        locations = self.shape[0] * self.shape[1] * self.shape[2]
        return total.reshape(-1, locations, locations)

    def _along(self, axis: int) -> Tensor:
        """[heads, size, size]: the part of one axis."""
        table, size = self.tables[axis], self.shape[axis]
        coordinates = torch.arange(size, device=table.device)
        return table[:, coordinates[:, None] - coordinates + size - 1]


class Attention(nn.Module):
    """x + multi-head self-attention on a layer-normed copy, [N, P, D] -> [N, P, D]; its projections have no biases.

    The heads together may be wider than D: in the paper 8 x 128 for D = 512.
    """

    def __init__(self, config: SubscaleTransformerConfig, shape: tuple[int, int, int], causal: bool) -> None:
        super().__init__()
        self.heads, self.head_width, self.kind, self.causal = config.heads, config.head_width, config.attention, causal
        inner, parts = config.heads * config.head_width, {"query-key": 3, "key": 2, "relative": 1}[config.attention]
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, parts * inner, bias=False)  # queries, keys, values
        self.learned_query = nn.Parameter(torch.empty(config.heads, config.head_width)) if self.kind == "key" else None
        self.relative = RelativeBias(config.heads, shape)
        self.out = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        score_terms, value = self.split(F.linear(self.norm(x), self.projection()))
        mixed = attend(score_terms, value, self.bias())
        return x + self.out(mixed.transpose(1, 2).flatten(2))

    def projection(self) -> Tensor:
        """The weights [rows, D] that x is multiplied by. For `key` that is u K, one row per head, and V: the keys
        themselves are never computed.
        """
        if self.learned_query is None:
            return self.project.weight
        key, value = self.project.weight.unflatten(0, (2, self.heads, self.head_width))
        query_key = torch.einsum("hd,hdw->hw", self.learned_query * self.head_width**-0.5, key)
        return torch.cat([query_key, value.flatten(0, 1)])

    def split(self, projected: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Projections [N, P, rows] -> the terms of the scores, and values [N, heads, P, d].

        The terms are queries and keys [N, heads, P, d] for `query-key`, the scores [N, heads, P] for `key`, and none
        for `relative`.
        """
        if self.kind == "query-key":
            query, key, value = projected.unflatten(-1, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)
            return (query, key), value
        inner = self.heads * self.head_width
        value = projected[..., -inner:].unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)
        return ((projected[..., :-inner].transpose(1, 2),) if self.kind == "key" else ()), value

    def bias(self) -> Tensor:
        """b [heads, P, P], -inf where masked."""
        bias = self.relative()
        if not self.causal:
            return bias
        later = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).triu(1)
        return bias.masked_fill(later, -torch.inf)


def attend(score_terms: tuple[Tensor, ...], value: Tensor, bias: Tensor) -> Tensor:
    """Attention of n queries, [N, heads, n, d], from what `Attention.split` returns.

    `bias` is [heads, n, P], or [N, heads, n, P].
    """
    if len(score_terms) == 2:
        query, key = score_terms
        if value.device.type != "cpu" or not torch.is_grad_enabled():
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        # on a CPU, where the bias needs a gradient, torch's own attention computes in float32, whatever the inputs
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias
    else:
        scores = bias + score_terms[0][:, :, None] if score_terms else bias
    weights = scores.softmax(-1).to(value.dtype)
    if weights.ndim == 4:
        return weights @ value
    return torch.einsum("hqk,nhkd->nhqd", weights, value)  # one product for all N; @ would copy the weights N times


class Block(nn.Module):
    """Attention, then x + an MLP of width D on a layer-normed copy, [N, P, D] -> [N, P, D]."""

    def __init__(self, config: SubscaleTransformerConfig, shape: tuple[int, int, int], causal: bool) -> None:
        super().__init__()
        self.attention = Attention(config, shape, causal)
        self.norm = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, config.width)
        self.fc2 = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return x + self.fc2(F.relu(self.fc1(self.norm(x))))
