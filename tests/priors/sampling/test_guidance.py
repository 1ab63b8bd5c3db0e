"""Classifier-free guidance: the guided distribution, exactly, however tokens are sampled."""

from __future__ import annotations

import pytest
import torch
from brute_force import one_by_one
from toy_priors import ToyConfig, ToyPrior, interleaved_order, spec_of

from tokenreel.data.spec import END, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, Tokens
from tokenreel.priors.gpt.model import GPT, GPTConfig
from tokenreel.priors.ngram.prior import TemporalBigramConfig, TemporalBigramPrior
from tokenreel.priors.sampling.guidance import guided
from tokenreel.priors.sampling.logits import SamplingConfig
from tokenreel.priors.sampling.video import sample, sample_video
from tokenreel.testing.priors import random_given, random_tokens, scramble

GUIDANCE = 2.5


def controlled_spec() -> TokenSpec:
    return spec_of(
        StreamSpec("video", (3, 2, 1), 5),
        StreamSpec("class", (1, 1, 1), 7, stride=3, role="control", unconditional_token=7),
        StreamSpec("state", (3, 1, 2), 11, role="control", unconditional_token=11),
        frames=3,
    )


def gpt(*controls: str, previous_step: bool = False) -> GPT:
    config = GPTConfig(depth=2, width=24, heads=3, controls=controls, previous_step=previous_step)
    prior = scramble(GPT(config, controlled_spec()), scale=0.1)
    prior.trained_without_controls = True
    return prior


def drop(prior: Prior, tokens: Tokens, names: set[str]) -> dict[str, torch.Tensor]:
    """`tokens` with unconditional tokens in the named streams."""
    return {
        name: torch.full_like(indices, prior.spec.stream(name).codebook_size) if name in names else indices
        for name, indices in tokens.items()
    }


def toy() -> ToyPrior:
    """Reads the class; every given token conditions all others."""
    order = interleaved_order(controlled_spec(), ["state", "video"])
    return scramble(ToyPrior(ToyConfig(), controlled_spec(), order, ("state", "video"), reads=("class",)))


class Tables(ToyPrior):
    """Tokens depend on the class only, by a table [8, 5] whose last row is unconditional."""

    table = torch.tensor([[1.0, 2, 3, 4, 0], [5, 1, 1, 1, 1], *[[1.0, 1, 1, 1, 1]] * 5, [4, 2, 2, 1, 1]])

    def _log_probs(self, before: torch.Tensor, positions: torch.Tensor, summary: torch.Tensor) -> torch.Tensor:
        rows = self.table[summary[:, 0].long()].log().log_softmax(-1)
        return rows[:, None].expand(-1, positions.shape[1], -1)

    def _summary(self, features: torch.Tensor, tokens: Tokens, given: torch.Tensor) -> torch.Tensor:
        return tokens["class"].flatten(1).float()


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("speculate", [0, 2])
def test_frequencies_are_those_of_the_guided_distribution(guidance: float, speculate: int) -> None:
    """By hand: unconditional^(1 - g) conditional^g, normalised; what the class makes impossible stays so."""
    prior = Tables(
        ToyConfig(), controlled_spec(), interleaved_order(controlled_spec(), ["video"]), ("video",), reads=("class",)
    )
    tokens = {"class": torch.tensor([0, 1]).repeat_interleave(2000).view(-1, 1, 1, 1, 1)}
    config = SamplingConfig(guidance=guidance, speculate=speculate)
    sampled = sample(prior, tokens, None, config, seed=1).tokens["video"]
    for kind, indices in enumerate(sampled.view(2, -1)):
        conditional, unconditional = prior.table[kind], prior.table[7]
        expected = unconditional ** (1 - guidance) * conditional**guidance * (conditional > 0)
        found = torch.bincount(indices, minlength=5) / len(indices)
        torch.testing.assert_close(found, expected / expected.sum(), atol=0.015, rtol=0)


def test_impossible_tokens_stay_impossible() -> None:
    """-inf stays -inf, whatever the guidance."""
    conditional, unconditional = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.2, 0.2, 0.6]).log()
    assert guided(conditional, unconditional, 0.0).tolist() == pytest.approx([-0.6931, -0.6931, -torch.inf], abs=1e-4)
    both = torch.tensor([0.4, 0.6, 0.0]).log()
    assert guided(conditional, both, 3.0)[2] == -torch.inf
    for guidance in (1e29, 1e39, 1e300):  # the likeliest by the difference, and not inf - inf
        assert (
            guided(conditional, unconditional, guidance).exp().tolist()
            == guided(conditional, unconditional, 1e9).exp().tolist()
        )


@pytest.mark.parametrize("speculate", [0, 1, 4])
@pytest.mark.parametrize("build", [toy, lambda: gpt("class", "state"), lambda: gpt("class", "state", "end")])
def test_samples_equal_those_of_guiding_one_by_one(build, speculate: int) -> None:
    """Against brute force: controls partly given, scattered given tokens that differ by row, sampled controls."""
    prior = build()
    tokens, given = random_tokens(prior, 3), random_given(prior, 3, fraction=0.3)
    given[1], given[2, -3:] = False, True
    unconditional = drop(prior, tokens, {"state", "class", END, "end_step"})
    expected = one_by_one(prior, tokens, given, 5, [4, 0, 17], unconditional=unconditional, guidance=GUIDANCE)
    config = SamplingConfig(guidance=GUIDANCE, speculate=speculate)
    found = sample(prior, tokens, given, config, seed=5, samples=torch.tensor([4, 0, 17]))
    assert torch.equal(prior.flatten(found.tokens), expected)
    nats = prior.unflatten(-prior.log_prob({**tokens, **found.tokens}, given).detach())
    for name in prior.predicts:  # under the prior, not under the guided distribution
        torch.testing.assert_close(found.nats[name], nats[name], atol=1e-4, rtol=0)


def test_guidance_of_1_is_off_and_costs_nothing() -> None:
    prior = gpt("class", "state", previous_step=True)
    tokens, given = random_tokens(prior, 3), prior.given_streams(["state"])
    plain = sample(prior, tokens, given)
    one = sample(prior, tokens, given, SamplingConfig(guidance=1.0))
    other = sample(prior, tokens, given, SamplingConfig(guidance=1.0001))
    assert torch.equal(plain.tokens["video"], one.tokens["video"])
    assert torch.equal(plain.nats["video"], one.nats["video"])
    assert plain.forwards == one.forwards == 6
    assert other.forwards == 12


def test_guidance_of_0_is_the_prior_without_its_controls() -> None:
    prior = gpt("class", "state", previous_step=True)
    tokens, given = random_tokens(prior, 29), prior.given_streams(["state"])
    found = sample(prior, tokens, given, SamplingConfig(guidance=0.0), seed=3).tokens["video"]
    unconditional = drop(prior, tokens, {"class", "state"})
    assert torch.equal(found, sample(prior, unconditional, given, seed=3).tokens["video"])
    assert not torch.equal(found, sample(prior, tokens, given, seed=3).tokens["video"])


@pytest.mark.parametrize("states", [0, 2, 7])
def test_a_sliding_window_equals_guiding_each_window_by_hand(states: int) -> None:
    """States that an earlier window sampled condition the second pass too; given ones do not."""
    prior = gpt("class", "state")
    clip, steps = random_tokens(prior, 2), prior.order()[:, 1]
    given_state = torch.randint(11, (2, states, 1, 2, 1), generator=torch.Generator().manual_seed(9))
    state, video = given_state, clip["video"][:, :1]
    for start in (0, 2, 4):
        window = {"class": clip["class"]}
        given = torch.zeros(2, len(steps), dtype=torch.bool)
        for name, indices in {"state": state, "video": video}.items():
            known = indices[:, start : start + 3]
            window[name] = torch.cat([known, torch.zeros_like(clip[name])], 1)[:, :3]
            given |= prior.positions_of(name) & (steps < known.shape[1])
        unconditional = drop(prior, window, {"class"}) | {"state": window["state"].clone()}
        unconditional["state"][:, : max(states - start, 0)] = 11
        sampled = prior.unflatten(one_by_one(prior, window, given, 3, [0, 1], start, unconditional, GUIDANCE))
        video = torch.cat([video[:, :start], sampled["video"]], 1)
        state = torch.cat([state[:, :start], sampled["state"], given_state[:, start + 3 :]], 1)
    tokens = {"class": clip["class"], "video": clip["video"][:, :1], "state": given_state}
    for speculate in (0, 3):
        found = sample_video(
            prior, tokens, 7, SamplingConfig(window_stride=2, speculate=speculate, guidance=GUIDANCE), seed=3
        )
        assert torch.equal(found.tokens["video"], video)
        assert torch.equal(found.tokens["state"], state)


def test_a_window_without_controls_has_no_second_pass() -> None:
    """The first window does not contain the end frame."""
    prior = gpt("end")
    tokens = {END: random_tokens(prior, 2)[END], "video": random_tokens(prior, 2)["video"][:, :1]}
    found = sample_video(prior, tokens, 4, SamplingConfig(window_stride=1, guidance=GUIDANCE))
    assert found.forwards == 2 * 2 + 2 * 2


def test_impossible_guidance_is_refused() -> None:
    config, rows = SamplingConfig(guidance=2.0), torch.arange(2)
    plain = TemporalBigramPrior(TemporalBigramConfig(), spec_of(StreamSpec("video", (3, 2, 1), 5), frames=3))
    with pytest.raises(ConfigError, match=r"guidance \(=2.0\) needs a prior with controls, and this one has none"):
        sample_video(plain, {}, 3, config, samples=rows)
    spec = spec_of(StreamSpec("video", (3, 2, 1), 5), StreamSpec("class", (1, 1, 1), 7, role="control"), frames=3)
    prior = GPT(GPTConfig(1, 8, 2, controls=("class",)), spec)
    with pytest.raises(
        ConfigError, match=r"guidance \(=2.0\) needs a prior that was also trained without its controls"
    ):
        sample(prior, random_tokens(prior, 2), None, config)
    prior.trained_without_controls = True
    with pytest.raises(ConfigError, match=r"without unconditional token: \['class'\]"):
        sample(prior, random_tokens(prior, 2), None, config)
    with pytest.raises(ConfigError, match=r"given: \[\], controls: \['class', 'state'\]"):
        sample_video(gpt("class", "state"), {}, 3, config, samples=rows)
    with pytest.raises(ConfigError, match=r"guidance \(=-1.0\) must be at least 0"):
        SamplingConfig(guidance=-1.0)
