"""The contract on toy priors of several kinds, and proof that each check catches priors that violate it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy_priors import ToyConfig, ToyPrior, ToyState, interleaved_order, spec_of, subscale_order

from tokenreel.data.spec import StreamSpec
from tokenreel.priors.base import State, Tokens, raster_order
from tokenreel.priors.sampling.video import sample
from tokenreel.sample_random import SampleRandom
from tokenreel.testing.prior_sampling import (
    check_sample_frequencies,
    check_samples_independent_of_batch,
    check_speculative_equals_plain,
)
from tokenreel.testing.priors import (
    check_cached_equals_uncached,
    check_causality,
    check_contract,
    check_dependencies,
    check_given_not_scored,
    check_given_reaches_earlier,
    check_loss,
    check_normalised,
    check_own_token_unused,
    check_read_streams_used,
    check_rewind,
    check_rows_at_different_speeds,
    check_start,
    check_step_computes_one_position,
    check_two_states,
    check_unconditional_tokens,
    random_given,
    random_tokens,
    scramble,
)

RASTER = spec_of(StreamSpec("video", (3, 2, 5), 7), frames=3)


def raster_toy(prior_class: type[ToyPrior] = ToyPrior) -> ToyPrior:
    return scrambled(prior_class(ToyConfig(), RASTER, raster_order(RASTER, ["video"]), ("video",)))


def scrambled(toy: ToyPrior) -> ToyPrior:
    scramble(toy)
    return toy


def subscale_toy(factor: tuple[int, int, int], codebooks: int) -> ToyPrior:
    spec = spec_of(StreamSpec("video", (4, 2, 3), 5, codebooks), frames=4)
    return scrambled(ToyPrior(ToyConfig(), spec, subscale_order(spec, "video", factor), ("video",)))


def controls_toy() -> ToyPrior:
    """A class for the clip and a state for each frame, both predicted, with smaller and larger codebooks."""
    spec = spec_of(
        StreamSpec("video", (5, 2, 1), 5),
        StreamSpec("class", (1, 1, 1), 3, role="control"),
        StreamSpec("state", (5, 1, 1), 11, codebooks=2, role="control"),
        frames=5,
    )
    names = ("class", "state", "video")
    return scrambled(ToyPrior(ToyConfig(), spec, interleaved_order(spec, names), names))


def two_levels(prior_class: type[ToyPrior] = ToyPrior) -> tuple[ToyPrior, ToyPrior]:
    """A top prior, and a bottom prior that reads the top level; two bottom steps per top step."""
    spec = spec_of(StreamSpec("top", (3, 1, 2), 3, stride=2), StreamSpec("bottom", (6, 2, 1), 5), frames=6)
    top = prior_class(ToyConfig(), spec, raster_order(spec, ["top"]), ("top",))
    bottom = prior_class(ToyConfig(), spec, subscale_order(spec, "bottom", (1, 2, 1)), ("bottom",), reads=("top",))
    return scrambled(top), scrambled(bottom)


@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize("factor", [(1, 2, 3), (2, 1, 1), (4, 2, 3)])
def test_subscale_order_with_given_frames(factor: tuple[int, int, int], codebooks: int):
    """Given frames are scattered over many slices; one row has given frames, one nothing, one scattered tokens."""
    toy = subscale_toy(factor, codebooks)
    tokens, given = random_tokens(toy, 3), random_given(toy, 3, fraction=0.3)
    given[0], given[1] = toy.given_frames(2), False
    check_contract(toy, tokens, given)
    check_given_reaches_earlier(toy, tokens, given)


@pytest.mark.parametrize("names", [[], ["state"], ["class"], ["class", "state"]])
def test_controls_given_or_predicted(names: list[str]):
    toy = controls_toy()
    given = (toy.given_streams(names) | toy.given_frames(1)).repeat(3, 1)
    check_contract(toy, random_tokens(toy, 3), given)


def test_a_cascade_of_two_levels():
    """The bottom prior reads what the top prior samples, and its probabilities depend on it."""
    top, bottom = two_levels()
    sampled = sample(top, {}, samples=torch.arange(5))
    tokens = {**sampled.tokens, **sample(bottom, sampled.tokens).tokens}
    none = torch.zeros(5, 12, dtype=torch.bool)
    check_contract(top, tokens, none[:, :6])
    check_contract(bottom, tokens, none)
    other = {**tokens, "top": (tokens["top"] + 1) % 3}
    assert (bottom.log_prob(tokens, none) - bottom.log_prob(other, none)).abs().amin() > 0


def test_rows_with_all_and_with_no_tokens_given():
    toy = raster_toy()
    given = torch.zeros(2, 30, dtype=torch.bool)
    given[0] = True
    tokens = random_tokens(toy, 2)
    check_start(toy, tokens, given)
    check_rows_at_different_speeds(toy, tokens, given)
    check_speculative_equals_plain(toy, tokens, given)
    sampled = sample(toy, tokens, given)
    assert torch.equal(sampled.tokens["video"][0], tokens["video"][0])


@pytest.mark.parametrize("speculate", [0, 3])
@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 1, 2)])
def test_small_grid(factor: tuple[int, int, int], speculate: int):
    """The probabilities of all sequences of a small grid sum to 1, and sampled frequencies agree with them."""
    spec = spec_of(StreamSpec("video", (2, 1, 2), 3, codebooks=2), frames=2)
    toy = scrambled(ToyPrior(ToyConfig(), spec, subscale_order(spec, "video", factor), ("video",)))
    tokens, given = random_tokens(toy, 2), random_given(toy, 2, fraction=0.3)
    check_normalised(toy, tokens, given)
    check_sample_frequencies(toy, tokens, given, speculate=speculate)


def test_a_new_token_computes_one_position():
    check_step_computes_one_position(raster_toy(), random_tokens(raster_toy(), 1))


class Peeking(ToyPrior):
    """Depends on the next token."""

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        log_probs = super().log_prob(tokens, given)
        ahead = self.flatten(tokens).roll(-1, 1) * 0.01
        return (log_probs - ahead).masked_fill(given, 0)


class SelfDependent(ToyPrior):
    """Computes the probability of a token from that token."""

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        log_probs = super().log_prob(tokens, given)
        return (log_probs * (1 + 0.01 * self.flatten(tokens))).masked_fill(given, 0)


class Forgetful(ToyPrior):
    """Does not cache the tokens that are fed."""

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        return super().step(state, torch.zeros_like(indices), count)


class Smearing(ToyPrior):
    """Keeps the tokens beyond `count`."""

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, ToyState)
        log_probs = super().step(state, indices, count)
        state.features[:, -1] = 0
        state.summary = state.summary + 0.01 * (indices.sum(1) - indices[:, 0])[:, None]
        return log_probs


class Unguarded(ToyPrior):
    """Embeds every token that it is fed, valid or not."""

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        self.token_embedding(indices)
        return super().step(state, indices, count)


class Recomputing(ToyPrior):
    """Computes the whole order for each new token."""

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        everything = torch.zeros(len(indices), len(self._order), dtype=torch.long)
        self._features(everything, everything)
        return super().step(state, indices, count)


class Independent(ToyPrior):
    """Each token is independent of all earlier ones."""

    def _log_probs(self, before: Tensor, positions: Tensor, summary: Tensor) -> Tensor:
        return super()._log_probs(torch.zeros_like(before), positions, summary)


class BlindSpot(ToyPrior):
    """Position 11 does not depend on the token at position 4; all others do."""

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        indices = self.flatten(tokens)
        indices[:, 4] = 0
        blind = super().log_prob(self.unflatten(indices, tokens), given)
        here = torch.arange(blind.shape[1]) == 11
        return torch.where(here, blind, super().log_prob(tokens, given))


class Constant(ToyPrior):
    """Ignores what it reads."""

    def _summary(self, features: Tensor, tokens: Tokens, given: Tensor) -> Tensor:
        return super()._summary(features, {name: torch.zeros_like(x) for name, x in tokens.items()}, given)


class Shared(ToyPrior):
    """Keeps the cache of its latest state only."""

    cache: Tensor

    def start(self, tokens: Tokens, given: Tensor) -> ToyState:
        state = super().start(tokens, given)
        self.cache = state.features
        return state

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, ToyState)
        state.features = self.cache
        return super().step(state, indices, count)


class ShortPrefix(ToyPrior):
    """Forgets given tokens at the start of the order if there are many."""

    def start(self, tokens: Tokens, given: Tensor) -> ToyState:
        state = super().start(tokens, given)
        state.features[state.position > 5] = 0
        return state


class BatchDependent(ToyPrior):
    """Depends a little on the other rows."""

    def _summary(self, features: Tensor, tokens: Tokens, given: Tensor) -> Tensor:
        summary = super()._summary(features, tokens, given)
        return summary + 0.02 * summary.mean(0)


class Unmasked(ToyPrior):
    """While sampling, gives probability to tokens beyond the codebook."""

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        return super().step(state, indices, count).clamp(min=-9.0)


class Untrainable(ToyPrior):
    """Its loss has no gradient."""

    def loss(self, tokens: Tokens, given: Tensor, random: SampleRandom | None = None) -> Tensor:
        return super().loss(tokens, given, random).detach()


class WithoutUnconditional(ToyPrior):
    """Has no embedding of unconditional tokens."""

    def _features(self, indices: Tensor, positions: Tensor) -> Tensor:
        self.token_embedding = torch.nn.Embedding.from_pretrained(self.token_embedding.weight[: self.head.out_features])
        return super()._features(indices, positions)


class ScoringGiven(ToyPrior):
    """Scores given tokens too, which its loss then includes."""

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        return super().log_prob(tokens, torch.zeros_like(given))


class ReadingFree(ToyPrior):
    """`start` reads tokens that are not given."""

    def start(self, tokens: Tokens, given: Tensor) -> ToyState:
        state = super().start(tokens, given)
        state.log_probs = state.log_probs.roll(int(self.flatten(tokens)[0, -1]), 1)
        return state


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Peeking, check_causality),
        (SelfDependent, check_own_token_unused),
        (SelfDependent, check_cached_equals_uncached),
        (Forgetful, check_cached_equals_uncached),
        (Smearing, check_rows_at_different_speeds),
        (Smearing, check_rewind),
        (Independent, check_dependencies),
        (BlindSpot, check_dependencies),
        (ScoringGiven, check_given_not_scored),
        (ScoringGiven, check_loss),
        (ReadingFree, check_start),
        (Shared, check_two_states),
        (ShortPrefix, check_two_states),
        (BatchDependent, check_samples_independent_of_batch),
        (Untrainable, check_loss),
    ],
)
def test_checks_catch_violations(broken, check):
    toy = raster_toy(broken)
    with pytest.raises(AssertionError):
        check(toy, random_tokens(toy, 3), random_given(toy, 3, fraction=0.3))


@pytest.mark.parametrize(
    ("broken", "check", "error"),
    [
        (Unmasked, check_cached_equals_uncached, AssertionError),
        (WithoutUnconditional, check_unconditional_tokens, IndexError),
    ],
)
def test_checks_catch_violations_with_controls(broken, check, error):
    """A state of more tokens than a frame's, with an unconditional one."""
    state = StreamSpec("state", (3, 1, 1), 7, role="control", unconditional_token=7)
    spec, names = spec_of(StreamSpec("video", (3, 2, 1), 5), state, frames=3), ("state", "video")
    toy = scrambled(broken(ToyConfig(), spec, interleaved_order(spec, names), names))
    with pytest.raises(error):
        check(toy, random_tokens(toy, 3), random_given(toy, 3, fraction=0.3))


def test_the_claimed_pairs_must_react_and_no_others() -> None:
    """A hole in the receptive field is an error, by name, unless the prior says that it has it."""
    toy = raster_toy(BlindSpot)
    tokens, given = random_tokens(toy, 2), torch.zeros(2, 30, dtype=torch.bool)
    with pytest.raises(AssertionError, match=r"1 of 435 pairs .* \[\[4, 11\]\]"):
        check_dependencies(toy, tokens, given)
    reaches = torch.ones(30, 30, dtype=torch.bool)
    reaches[4, 11] = False
    check_dependencies(toy, tokens, given, reaches)


def test_reading_nothing_is_caught():
    _, bottom = two_levels(Constant)
    with pytest.raises(AssertionError, match="reads: has stream 'top', which changes nothing"):
        check_read_streams_used(bottom, random_tokens(bottom, 3), random_given(bottom, 3, fraction=0.3))


def test_noise_beyond_the_codebook_catches_a_prior_that_embeds_it():
    toy = raster_toy(Unguarded)
    with pytest.raises(IndexError):
        check_rows_at_different_speeds(toy, random_tokens(toy, 3), random_given(toy, 3, fraction=0.3))


def test_counting_operations_catches_recomputing():
    toy = raster_toy(Recomputing)
    with pytest.raises(AssertionError):
        check_step_computes_one_position(toy, random_tokens(toy, 1))


def test_small_grid_checks_catch_wrong_probabilities():
    spec = spec_of(StreamSpec("video", (2, 1, 2), 3, codebooks=1), frames=2)
    order = raster_order(spec, ["video"])
    given = torch.zeros(1, 4, dtype=torch.bool)
    self_dependent = scrambled(SelfDependent(ToyConfig(), spec, order, ("video",)))
    with pytest.raises(AssertionError):
        check_normalised(self_dependent, random_tokens(self_dependent, 1), given)
    forgetful = scrambled(Forgetful(ToyConfig(), spec, order, ("video",)))
    with pytest.raises(AssertionError):
        check_sample_frequencies(forgetful, random_tokens(forgetful, 1), given)
