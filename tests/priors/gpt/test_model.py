"""GPT: the contract of all priors, its order, what it learns, and the same values however they are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toy_priors import spec_of

from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior
from tokenreel.priors.gpt.model import GPT, GPTConfig
from tokenreel.sample_random import SampleRandom
from tokenreel.testing.prior_sampling import check_sample_frequencies
from tokenreel.testing.priors import (
    check_contract,
    check_normalised,
    check_step_computes_one_position,
    random_given,
    random_tokens,
    scramble,
)

SCALE = 0.1  # of the noise on the weights: with more, attention attends to one token only

# the class of the video, a state of two numbers for each frame, a sliced level
CONTROLLED = spec_of(
    StreamSpec("video", (3, 2, 3), 5, codebooks=2),
    StreamSpec("state", (3, 1, 2), 11, role="control", unconditional_token=11),
    StreamSpec("class", (1, 1, 1), 7, stride=3, role="control", unconditional_token=7),
    frames=3,
)
CONTROLS = ("class", "state")
TWO_LEVELS = spec_of(StreamSpec("top", (2, 1, 1), 3, stride=3), StreamSpec("bottom", (6, 1, 2), 5), frames=6)
TINY = spec_of(StreamSpec("video", (2, 1, 2), 3), frames=2)


def gpt(spec: TokenSpec, **settings: Any) -> GPT:
    """By default with the controls of CONTROLLED, for other specs with none."""
    torch.manual_seed(0)
    settings = {"controls": CONTROLS if spec is CONTROLLED else (), **settings}
    return GPT(GPTConfig(depth=2, width=24, heads=3, **settings), spec)


@pytest.mark.parametrize("previous_step", [False, True])
@pytest.mark.parametrize("spec", [CONTROLLED, TWO_LEVELS])
def test_contract(spec: TokenSpec, previous_step: bool) -> None:
    prior = scramble(gpt(spec, previous_step=previous_step), scale=SCALE)
    check_contract(prior, random_tokens(prior, 3), random_given(prior, 3, 0.3))


def test_contract_without_packed_weights() -> None:
    """oneDNN packs no float64, so this uses the plain layers, as on any other device."""
    prior = scramble(gpt(CONTROLLED).double(), scale=SCALE)
    check_contract(prior, random_tokens(prior, 3), random_given(prior, 3, 0.3))


@pytest.mark.parametrize("speculate", [0, 2])
def test_samples_follow_its_probabilities(speculate: int) -> None:
    prior = scramble(gpt(TINY), scale=SCALE)
    tokens, given = random_tokens(prior, 2), torch.tensor([[False] * 4, [False, True, False, False]])
    check_normalised(prior, tokens, given)
    check_sample_frequencies(prior, tokens, given, speculate=speculate)


def test_a_new_token_computes_one_position() -> None:
    prior = scramble(gpt(CONTROLLED))
    check_step_computes_one_position(prior, random_tokens(prior, 1))


def test_controls_come_before_their_frame() -> None:
    order = gpt(CONTROLLED).order()
    frame = [[1, 0, 0, 0], [1, 0, 0, 1]] + [[0, 0, h, w] for h in range(2) for w in range(3) for _ in range(2)]
    assert order[:14, :4].tolist() == frame
    assert order[14:28, 1].unique().tolist() == [1]
    assert order[2:14, 4].tolist() == [0, 1] * 6  # the codebooks of a location one after the other


def test_coarse_tokens_come_before_their_frames() -> None:
    bottom_of_three_frames = [[1, t, w] for t in range(3) for w in range(2)]
    assert gpt(TWO_LEVELS).order()[:7, [0, 1, 3]].tolist() == [[0, 0, 0], *bottom_of_three_frames]


def test_previous_step_is_the_same_location_one_step_before() -> None:
    prior = gpt(CONTROLLED, previous_step=True)
    order, feature = prior.order(), prior.inputs["previous_step"]
    previous = order - torch.tensor([0, 1, 0, 0, 0])
    later = order[:, 1] > 0
    assert torch.equal(order[feature.source[later]], previous[later])
    assert torch.equal(feature.known[:, 0].bool(), later)


def test_the_previous_step_input_learns_to_copy() -> None:
    """Tokens that never change cost nothing after a few steps, before attention has learned where to look."""
    prior = gpt(spec_of(StreamSpec("video", (3, 2, 5), 13), frames=3), previous_step=True)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    generator, given = torch.Generator().manual_seed(0), prior.given_frames(1).expand(32, -1)
    for _ in range(40):
        still = torch.randint(13, (32, 1, 2, 5, 1), generator=generator).expand(-1, 3, -1, -1, -1)
        loss = prior.loss({"video": still}, given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1  # nats; guessing costs 2.56


def test_overfits_one_clip() -> None:
    """Gradients reach all parameters: the loss of one clip of 36 tokens falls from that of guessing to almost zero."""
    prior = gpt(CONTROLLED)
    tokens, given = random_tokens(prior, 1), prior.given_streams(["state"])[None]
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = prior.loss(tokens, given)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in prior.parameters())
        optimizer.step()
        losses.append(loss.item())
    guessing = (~given[0] / prior.codebook_sizes().reciprocal()).where(~given[0], 1).log().sum() / (~given).sum()
    assert abs(losses[0] - guessing.item()) < 0.1
    assert losses[-1] < 0.05


def test_dropout_depends_on_its_random_numbers_only() -> None:
    prior = gpt(CONTROLLED, dropout=0.5).train()
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.3)

    def loss(seed: int) -> torch.Tensor:
        return prior.loss(tokens, given, SampleRandom(seed, np.arange(2), torch.device("cpu")))

    first = loss(3)
    torch.rand(5)  # advances torch's global generator
    assert torch.equal(first, loss(3))
    assert not torch.equal(first, loss(4))
    prior.eval()
    assert torch.equal(loss(3), loss(4))


def test_sampling_in_bfloat16_is_close() -> None:
    prior = scramble(gpt(CONTROLLED), scale=SCALE)
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.3)
    exact = prior.start(tokens, given)
    rounded = prior.to(torch.bfloat16).start(tokens, given)
    first = prior.codebook_sizes()[exact.position]
    for row, size in enumerate(first.tolist()):
        assert (exact.log_probs - rounded.log_probs)[row, :size].abs().max() < 0.05


def test_bfloat16_autocast_trains() -> None:
    """The loss itself is float32: bfloat16 has three digits."""
    prior = gpt(CONTROLLED)
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = prior.loss(tokens, given)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, prior.loss(tokens, given), atol=0.02, rtol=0)


def test_document_round_trip() -> None:
    prior = scramble(gpt(CONTROLLED, dropout=0.1), scale=SCALE)
    again = Prior.from_document(prior.to_document())
    again.load_state_dict(prior.state_dict())
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.3)
    assert torch.equal(again.eval().log_prob(tokens, given), prior.log_prob(tokens, given))


def test_paper_preset_has_the_size_of_the_paper() -> None:
    """24 layers, 16 heads, width 1024, 1024 tokens in 16 frames of 8x8 (CCVS table 2 and its published code)."""
    with torch.device("meta"):
        prior = Prior.from_preset("gpt-bair-paper")
    assert prior.order().shape == (1024, 5)
    assert sum(parameter.numel() for parameter in prior.parameters()) == 304_492_544


@pytest.mark.parametrize("sizes", [(0, 8, 2), (2, 9, 2), (2, 8, 0)])
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="width"):
        GPTConfig(*sizes)
