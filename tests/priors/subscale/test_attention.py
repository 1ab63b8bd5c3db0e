"""Attention over a slice: biases pair by pair, the mask, and `key` attention without computing keys."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tokenreel.priors.subscale.attention import Attention, RelativeBias, attend
from tokenreel.priors.subscale.config import SubscaleTransformerConfig

SHAPE = (2, 3, 5)
LOCATIONS = list(itertools.product(*map(range, SHAPE)))
HEADS, HEAD_WIDTH, WIDTH = 3, 7, 11


def test_the_relative_bias_is_looked_up_by_distance() -> None:
    """The distance is from key to query; each of -1 .. 1, -2 .. 2, -4 .. 4 has its own number."""
    relative = RelativeBias(HEADS, SHAPE)
    assert not relative().any()
    for table in relative.tables:
        torch.nn.init.normal_(table)
    t, h, w = relative.tables
    expected = torch.stack(
        [
            t[:, q[0] - k[0] + 1] + h[:, q[1] - k[1] + 2] + w[:, q[2] - k[2] + 4]
            for q, k in itertools.product(LOCATIONS, repeat=2)
        ],
        -1,
    )
    torch.testing.assert_close(relative().flatten(1), expected)


def test_a_causal_bias_masks_later_locations_only() -> None:
    attention = _attention("query-key", causal=True)
    bias, relative = attention.bias(), attention.relative()
    for q, k in itertools.product(range(len(LOCATIONS)), repeat=2):
        if k > q:
            assert (bias[:, q, k] == -math.inf).all()
        else:
            assert torch.equal(bias[:, q, k], relative[:, q, k])
    assert torch.equal(_attention("query-key", causal=False).bias(), relative)


@pytest.mark.parametrize("causal", [False, True])
def test_key_attention_equals_scoring_computed_keys(causal: bool) -> None:
    """`key` multiplies by u K at once; the result is that of computing the keys K x and scoring each with u."""
    attention, x = _attention("key", causal), torch.randn(2, len(LOCATIONS), WIDTH, dtype=torch.float64)
    keys, values = attention.project(attention.norm(x)).unflatten(-1, (2, HEADS, HEAD_WIDTH)).unbind(2)
    scores = torch.einsum("hd,nphd->nhp", attention.learned_query, keys) / HEAD_WIDTH**0.5
    weights = (scores[:, :, None] + attention.bias()).softmax(-1)
    mixed = torch.einsum("nhqk,nkhd->nqhd", weights, values)
    torch.testing.assert_close(attention(x), x + attention.out(mixed.flatten(2)))


@pytest.mark.parametrize("kind", ["query-key", "key", "relative"])
def test_a_subset_of_queries_gives_the_same_as_all(kind: str) -> None:
    """`attend` with the biases of some queries, shared or per row, gives what it gives for these among all."""
    attention, x = _attention(kind, causal=True), torch.randn(2, len(LOCATIONS), WIDTH, dtype=torch.float64)
    score_terms, value = attention.split(torch.nn.functional.linear(attention.norm(x), attention.projection()))
    bias, subset = attention.bias(), [2, 29, 13]
    expected = attend(score_terms, value, bias)[:, :, subset]
    score_terms = (score_terms[0][:, :, subset], score_terms[1]) if kind == "query-key" else score_terms
    torch.testing.assert_close(attend(score_terms, value, bias[:, subset]), expected)
    torch.testing.assert_close(attend(score_terms, value, bias[:, subset].expand(2, -1, -1, -1)), expected)


def test_kinds_differ_in_their_projections() -> None:
    inner = HEADS * HEAD_WIDTH
    sizes = {kind: _parameters(_attention(kind)) for kind in ("query-key", "key", "relative")}
    assert sizes["query-key"] - sizes["relative"] == 2 * WIDTH * inner
    assert sizes["key"] - sizes["relative"] == WIDTH * inner + inner  # keys and u


def _attention(kind: str, causal: bool = False) -> Attention:
    """In float64, with random weights: biases are initialised to zero, and `learned_query` not at all."""
    config = SubscaleTransformerConfig((1, 1, 1), (1, 1, 1), 1, WIDTH, HEADS, HEAD_WIDTH, 5, attention=kind)  # type: ignore[arg-type]
    attention = Attention(config, SHAPE, causal)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return attention.double()


def _parameters(attention: Attention) -> int:
    return sum(parameter.numel() for parameter in attention.parameters())
