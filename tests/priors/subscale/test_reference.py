"""The subscale transformer against a second implementation from the paper (`reference.py`)."""

from __future__ import annotations

import pytest
import torch
from subscale.reference import reference_log_prob
from toy_priors import spec_of

from tokenreel.data.spec import StreamSpec
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.transformer import SubscaleTransformer
from tokenreel.testing.priors import random_tokens, scramble

SIZE = 7
TOLERANCE = 5e-5  # nats: weights are float64 here, but the last softmax, of up to 70 nats, is float32
TYPES = {  # grid, subscale factor and kernel; the single-frame kernel exceeds the clip
    "single-frame": ((5, 2, 3), (5, 1, 1), (11, 1, 1)),
    "spatial": ((2, 6, 10), (1, 2, 2), (1, 5, 3)),
    "spatiotemporal": ((4, 9, 10), (2, 3, 2), (5, 3, 7)),
}


@pytest.mark.parametrize("attention", ["query-key", "key", "relative"])
@pytest.mark.parametrize("codebooks", [1, 3])
@pytest.mark.parametrize("kind", TYPES)
def test_log_prob_equals_the_reference(kind: str, codebooks: int, attention: str) -> None:
    _assert_equals_reference(_prior(kind, codebooks, attention=attention))


def test_tied_embeddings_are_the_rows_of_the_softmax() -> None:
    _assert_equals_reference(_prior("spatial", 3, tied="embeddings"))


def _prior(kind: str, codebooks: int, **fields: object) -> SubscaleTransformer:
    grid, subscale, kernel = TYPES[kind]
    sizes = {"depth": 2, "width": 13, "heads": 2, "head_width": 5, "embedding": 11}
    config = SubscaleTransformerConfig(subscale, kernel, **sizes, **fields)  # type: ignore[arg-type]
    prior = SubscaleTransformer(config, spec_of(StreamSpec("video", grid, SIZE, codebooks), frames=grid[0]))
    return scramble(prior).double()  # type: ignore[return-value]


def _assert_equals_reference(prior: SubscaleTransformer) -> None:
    """With given tokens scattered over the clip in the first row, and none in the second."""
    tokens = random_tokens(prior, 2)
    indices = tokens["video"]
    given = torch.rand(indices.shape) < torch.tensor([0.4, 0.0]).view(2, 1, 1, 1, 1)
    expected = reference_log_prob(prior.config, prior.state_dict(), indices, given, SIZE).masked_fill(given, 0)
    t, h, w, q = prior.order()[:, 1:].unbind(1)
    with torch.no_grad():
        found = prior.log_prob(tokens, given[:, t, h, w, q])
    torch.testing.assert_close(found, expected[:, t, h, w, q].float(), rtol=0, atol=TOLERANCE)
