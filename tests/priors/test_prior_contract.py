"""The contract on toy priors in the shapes of systems to come, and proof that its checks catch priors that break it."""

from __future__ import annotations

import pytest
import torch
from prior_contract import (
    check_cached_equals_uncached,
    check_causality,
    check_contract,
    check_converse,
    check_drafted_equals_plain,
    check_given_costs_nothing,
    check_given_seen_before,
    check_loss,
    check_normalised,
    check_own_code_unseen,
    check_rewind,
    check_rows_apart,
    check_sample_frequencies,
    check_start,
    check_step_computes_one_position,
    random_given,
    random_tokens,
    scramble,
)
from torch import Tensor
from toy_priors import Toy, ToyConfig, ToyState, interleaved_order, spec_of, subscale_order

from tokenreel.data.spec import StreamSpec
from tokenreel.priors.base import State, Tokens, raster_order
from tokenreel.priors.sampling.video import sample


def raster_toy() -> Toy:
    spec = spec_of(StreamSpec("video", (3, 2, 5), 7), frames=3)
    return scrambled(Toy(ToyConfig(), spec, raster_order(spec, ["video"]), ("video",)))


def scrambled(toy: Toy) -> Toy:
    scramble(toy)
    return toy


def subscale_toy(factor: tuple[int, int, int], codebooks: int) -> Toy:
    spec = spec_of(StreamSpec("video", (4, 2, 3), 5, codebooks), frames=4)
    return scrambled(Toy(ToyConfig(), spec, subscale_order(spec, "video", factor), ("video",)))


def tracks_toy() -> Toy:
    """A class for the clip and a state for each frame, either given or predicted, with smaller and larger codebooks."""
    spec = spec_of(
        StreamSpec("video", (5, 2, 1), 5),
        StreamSpec("class", (1, 1, 1), 3, role="control"),
        StreamSpec("state", (5, 1, 1), 11, codebooks=2, role="control"),
        frames=5,
    )
    names = ("class", "state", "video")
    return scrambled(Toy(ToyConfig(), spec, interleaved_order(spec, names), names))


def two_levels() -> tuple[Toy, Toy]:
    """A top prior, and a bottom prior that reads top whole; two bottom steps for each top step."""
    spec = spec_of(StreamSpec("top", (3, 1, 2), 3, stride=2), StreamSpec("bottom", (6, 2, 1), 5), frames=6)
    top = Toy(ToyConfig(), spec, raster_order(spec, ["top"]), ("top",))
    bottom = Toy(ToyConfig(), spec, subscale_order(spec, "bottom", (1, 2, 1)), ("bottom",), reads=("top",))
    return scrambled(top), scrambled(bottom)


@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize("factor", [(1, 2, 3), (2, 1, 1), (4, 2, 3)])
def test_subscale_order_with_scattered_priming(factor: tuple[int, int, int], codebooks: int):
    """Priming frames lie in many slices of subscale order; one row has frames given, one scattered codes, one none."""
    toy = subscale_toy(factor, codebooks)
    tokens, given = random_tokens(toy, 3), random_given(toy, 3, share=0.3)
    given[0], given[1] = toy.given_frames(2), False
    check_contract(toy, tokens, given)
    check_given_seen_before(toy, tokens, given)


@pytest.mark.parametrize("names", [[], ["state"], ["class"], ["class", "state"]])
def test_tracks_given_or_predicted(names: list[str]):
    toy = tracks_toy()
    given = (toy.given_streams(names) | toy.given_frames(1)).repeat(3, 1)
    check_contract(toy, random_tokens(toy, 3), given)


def test_two_levels_chain():
    """What top draws, bottom reads; the pair's probabilities are those of the two priors, and bottom heeds top."""
    top, bottom = two_levels()
    drawn = sample(top, {}, samples=torch.arange(5))
    tokens = {**drawn.tokens, **sample(bottom, drawn.tokens).tokens}
    none = torch.zeros(5, 12, dtype=torch.bool)
    check_contract(top, tokens, none[:, :6])
    check_contract(bottom, tokens, none)
    other = {**tokens, "top": (tokens["top"] + 1) % 3}
    assert (bottom.log_prob(tokens, none) - bottom.log_prob(other, none)).abs().amin() > 0


def test_rows_with_everything_and_with_nothing_given():
    toy = raster_toy()
    given = torch.zeros(2, 30, dtype=torch.bool)
    given[0] = True
    tokens = random_tokens(toy, 2)
    check_start(toy, tokens, given)
    check_rows_apart(toy, tokens, given)
    check_drafted_equals_plain(toy, tokens, given)
    drawn = sample(toy, tokens, given)
    assert torch.equal(drawn.tokens["video"][0], tokens["video"][0])


@pytest.mark.parametrize("speculate", [0, 3])
@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 1, 2)])
def test_small_grid(factor: tuple[int, int, int], speculate: int):
    """On every sequence of a small grid: probabilities sum to 1, and sequences are drawn as often as they say."""
    spec = spec_of(StreamSpec("video", (2, 1, 2), 3, codebooks=2), frames=2)
    toy = scrambled(Toy(ToyConfig(), spec, subscale_order(spec, "video", factor), ("video",)))
    tokens, given = random_tokens(toy, 2), random_given(toy, 2, share=0.3)
    check_normalised(toy, tokens, given)
    check_sample_frequencies(toy, tokens, given, speculate=speculate)


def test_a_new_code_computes_one_position():
    check_step_computes_one_position(raster_toy(), random_tokens(raster_toy(), 1))


class Peeking(Toy):
    """Looks one code ahead."""

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        log_probs = super().log_prob(tokens, given)
        ahead = self.flatten(tokens).roll(-1, 1) * 0.01
        return (log_probs - ahead).masked_fill(given, 0)


class SeeingItself(Toy):
    """Computes the probability of a code from that code."""

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        log_probs = super().log_prob(tokens, given)
        return (log_probs * (1 + 0.01 * self.flatten(tokens))).masked_fill(given, 0)


class Forgetful(Toy):
    """Its cache never hears of the codes fed."""

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        return super().step(state, torch.zeros_like(indices), count)


class Smearing(Toy):
    """Writes the codes beyond `count` where later ones belong, and keeps them."""

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, ToyState)
        log_probs = super().step(state, indices, count)
        state.features[:, -1] = 0
        state.summary = state.summary + 0.01 * (indices.sum(1) - indices[:, 0])[:, None]
        return log_probs


class Unguarded(Toy):
    """Looks up the embedding of every code that it is fed, valid or not."""

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        self.code(indices)
        return super().step(state, indices, count)


class Recomputing(Toy):
    """Runs the whole order for each new code."""

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        everything = torch.zeros(len(indices), len(self._order), dtype=torch.long)
        self._features(everything, everything)
        return super().step(state, indices, count)


class Overlooking(Toy):
    """Blind to everything before: each code on its own."""

    def _log_probs(self, before: Tensor, positions: Tensor, summary: Tensor) -> Tensor:
        return super()._log_probs(torch.zeros_like(before), positions, summary)


class Summing(Toy):
    """Charges for what is given, and its loss is a sum."""

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        return super().log_prob(tokens, torch.zeros_like(given))


class Reading(Toy):
    """`start` looks at codes that are not given."""

    def start(self, tokens: Tokens, given: Tensor) -> ToyState:
        state = super().start(tokens, given)
        state.log_probs = state.log_probs.roll(int(self.flatten(tokens)[0, -1]), 1)
        return state


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Peeking, check_causality),
        (SeeingItself, check_own_code_unseen),
        (SeeingItself, check_cached_equals_uncached),
        (Forgetful, check_cached_equals_uncached),
        (Smearing, check_rows_apart),
        (Smearing, check_rewind),
        (Overlooking, check_converse),
        (Summing, check_given_costs_nothing),
        (Summing, check_loss),
        (Reading, check_start),
    ],
)
def test_the_checks_catch_what_they_are_for(broken, check):
    spec = raster_toy().spec
    toy = scrambled(broken(ToyConfig(), spec, raster_order(spec, ["video"]), ("video",)))
    with pytest.raises(AssertionError):
        check(toy, random_tokens(toy, 3), random_given(toy, 3, share=0.3))


def test_noise_beyond_the_codebook_catches_a_prior_that_looks_it_up():
    spec = raster_toy().spec
    toy = scrambled(Unguarded(ToyConfig(), spec, raster_order(spec, ["video"]), ("video",)))
    with pytest.raises(IndexError):
        check_rows_apart(toy, random_tokens(toy, 3), random_given(toy, 3, share=0.3))


def test_the_counter_catches_recomputing():
    spec = raster_toy().spec
    toy = Recomputing(ToyConfig(), spec, raster_order(spec, ["video"]), ("video",))
    with pytest.raises(AssertionError):
        check_step_computes_one_position(toy, random_tokens(toy, 1))


def test_the_small_grid_checks_catch_a_prior_that_misstates_itself():
    spec = spec_of(StreamSpec("video", (2, 1, 2), 3, codebooks=1), frames=2)
    order = raster_order(spec, ["video"])
    given = torch.zeros(1, 4, dtype=torch.bool)
    itself = scrambled(SeeingItself(ToyConfig(), spec, order, ("video",)))
    with pytest.raises(AssertionError):
        check_normalised(itself, random_tokens(itself, 1), given)
    forgetful = scrambled(Forgetful(ToyConfig(), spec, order, ("video",)))
    with pytest.raises(AssertionError):
        check_sample_frequencies(forgetful, random_tokens(forgetful, 1), given)
