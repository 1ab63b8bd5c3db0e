"""Activation checkpointing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import checkpoint

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.priors.base import Prior, build_prior
from tokenreel.priors.layers import recompute
from tokenreel.sample_random import SampleRandom
from tokenreel.testing.priors import random_given, random_tokens, scramble

SPEC = TokenSpec((StreamSpec("video", (3, 4, 2), 13),), 3, Framing(16, 8))
LEVELS = TokenSpec(
    (
        StreamSpec("top", (2, 2, 3), 7, stride=2),
        StreamSpec("bottom", (4, 4, 6), 7),
        StreamSpec("top_given", (1, 2, 3), 7, stride=2, role="control"),
        StreamSpec("bottom_given", (2, 4, 6), 7, role="control"),
    ),
    4,
    Framing(16, 24),
    time="window",
)
PIXELCNN = {"layers": 2, "hidden": 6, "residual": 8, "embedding": 5, "kernel": 3, "attention_every": 2, "heads": 2}
PRIORS: dict[str, tuple[dict[str, Any], TokenSpec]] = {
    "gpt": ({"depth": 2, "width": 8, "heads": 2, "dropout": 0.3}, SPEC),
    "subscale-transformer": (
        {
            "subscale": [1, 2, 1],
            "kernel": [3, 3, 3],
            "depth": 2,
            "width": 6,
            "heads": 2,
            "head_width": 3,
            "embedding": 5,
        },
        SPEC,
    ),
    "pixelcnn-top": (
        {**PIXELCNN, "condition_hidden": 4, "condition_residual": 4, "condition_blocks": 1, "dropout": 0.3},
        LEVELS,
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_gradients_are_the_same_and_blocks_are_computed_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    section, spec = PRIORS[name]
    torch.manual_seed(0)
    prior = scramble(build_prior({"type": name, **section}, spec)).train()
    expected_loss, expected = loss_and_gradients(prior)
    assert recompute.recompute_activations(prior)
    calls = []
    own = checkpoint.checkpoint
    monkeypatch.setattr(recompute, "checkpoint", lambda run, *x, **how: own(counted(run, calls), *x, **how))
    loss, found = loss_and_gradients(prior)
    assert loss == expected_loss
    assert calls, "nothing was computed twice"
    assert all(calls.count(block) == 2 for block in set(calls))
    for gradient, other in zip(expected, found, strict=True):
        torch.testing.assert_close(gradient, other)


def counted(run: Any, calls: list[int]) -> Any:
    number = len(set(calls))

    def wrapped(*inputs: Tensor) -> Any:
        calls.append(number)
        return run(*inputs)

    return wrapped


def loss_and_gradients(prior: Prior) -> tuple[float, list[Tensor]]:
    tokens, given = random_tokens(prior, 3), random_given(prior, 3, 0.2)
    prior.zero_grad()
    loss = prior.loss(tokens, given, SampleRandom(5, np.arange(3), torch.device("cpu")))
    loss.backward()
    return loss.item(), [p.grad.clone() for p in prior.parameters() if p.grad is not None]


def test_nothing_is_kept_for_a_second_pass_where_there_are_no_gradients() -> None:
    prior = build_prior({"type": "gpt", **PRIORS["gpt"][0]}, SPEC).eval()
    tokens, given = random_tokens(prior, 3), random_given(prior, 3, 0.2)
    with torch.no_grad():
        expected = prior.log_prob(tokens, given)
        recompute.recompute_activations(prior)
        assert torch.equal(prior.log_prob(tokens, given), expected)


def test_a_prior_without_blocks_says_so() -> None:
    assert not recompute.recompute_activations(torch.nn.Linear(3, 5))
