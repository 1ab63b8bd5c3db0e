"""Attention over a slice: biases pair by pair, the mask, and keys that are never computed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tokenreel.priors.subscale.attention import Attention, RelativeBias, attend
from tokenreel.priors.subscale.config import SubscaleTransformerConfig

SHAPE = (2, 3, 5)
PLACES = list(itertools.product(*map(range, SHAPE)))
HEADS, HEAD_WIDTH, WIDTH = 3, 7, 11


def test_the_relative_bias_is_looked_up_by_distance() -> None:
    """Of the query from the key; each distance -1 .. 1, -2 .. 2, -4 .. 4 has a number of its own."""
    relative = RelativeBias(HEADS, SHAPE)
    assert not relative().any()
    for table in relative.tables:
        torch.nn.init.normal_(table)
    t, h, w = relative.tables
    expected = torch.stack(
        [
            t[:, q[0] - k[0] + 1] + h[:, q[1] - k[1] + 2] + w[:, q[2] - k[2] + 4]
            for q, k in itertools.product(PLACES, repeat=2)
        ],
        -1,
    )
    torch.testing.assert_close(relative().flatten(1), expected)


def test_a_causal_bias_hides_later_places_only() -> None:
    attention = _attention("query-key", causal=True)
    bias, relative = attention.bias(), attention.relative()
    for q, k in itertools.product(range(len(PLACES)), repeat=2):
        if k > q:
            assert (bias[:, q, k] == -math.inf).all()
        else:
            assert torch.equal(bias[:, q, k], relative[:, q, k])
    assert torch.equal(_attention("query-key", causal=False).bias(), relative)


@pytest.mark.parametrize("causal", [False, True])
def test_folded_keys_are_the_keys_asked_for(causal: bool) -> None:
    """`key` multiplies by u K at once; computing the keys K x, then asking u of each, comes to the same."""
    attention, x = _attention("key", causal), torch.randn(2, len(PLACES), WIDTH)
    keys, values = attention.project(attention.norm(x)).unflatten(-1, (2, HEADS, HEAD_WIDTH)).unbind(2)
    scores = torch.einsum("hd,nphd->nhp", attention.asked, keys) / HEAD_WIDTH**0.5
    weights = (scores[:, :, None] + attention.bias()).softmax(-1)
    mixed = torch.einsum("nhqk,nkhd->nqhd", weights, values)
    torch.testing.assert_close(attention(x), x + attention.out(mixed.flatten(2)))


@pytest.mark.parametrize("kind", ["query-key", "key", "relative"])
def test_some_queries_are_answered_as_all_are(kind: str) -> None:
    """`attend` with the biases of some queries, shared or a row's own, is what it says of them among all."""
    attention, x = _attention(kind, causal=True), torch.randn(2, len(PLACES), WIDTH)
    asking, value = attention.split(torch.nn.functional.linear(attention.norm(x), attention.projection()))
    bias, some = attention.bias(), [2, 29, 13]
    expected = attend(asking, value, bias)[:, :, some]
    asking = (asking[0][:, :, some], asking[1]) if kind == "query-key" else asking
    torch.testing.assert_close(attend(asking, value, bias[:, some]), expected)
    torch.testing.assert_close(attend(asking, value, bias[:, some].expand(2, -1, -1, -1)), expected)


def test_kinds_differ_by_the_projections_that_they_need() -> None:
    inner = HEADS * HEAD_WIDTH
    sizes = {kind: _parameters(_attention(kind)) for kind in ("query-key", "key", "relative")}
    assert sizes["query-key"] - sizes["relative"] == 2 * WIDTH * inner
    assert sizes["key"] - sizes["relative"] == WIDTH * inner + inner  # keys and u


def _attention(kind: str, causal: bool = False) -> Attention:
    """With noise on its weights: biases start at zero, and `asked` is not initialised."""
    config = SubscaleTransformerConfig((1, 1, 1), (1, 1, 1), 1, WIDTH, HEADS, HEAD_WIDTH, 5, attention=kind)  # type: ignore[arg-type]
    attention = Attention(config, SHAPE, causal)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return attention


def _parameters(attention: Attention) -> int:
    return sum(parameter.numel() for parameter in attention.parameters())
