"""The counted baselines: counts by hand, and the contract of all priors."""

from __future__ import annotations

import math

import pytest
import torch
from toy_priors import spec_of

from tokenreel.data.spec import StreamSpec
from tokenreel.errors import DataError
from tokenreel.priors.base import Prior
from tokenreel.priors.ngram.prior import TemporalBigramConfig, TemporalBigramPrior, UnigramConfig, UnigramPrior
from tokenreel.testing.prior_sampling import check_sample_frequencies
from tokenreel.testing.priors import (
    check_contract,
    check_normalised,
    random_given,
    random_tokens,
)

SPEC = spec_of(
    StreamSpec("video", (3, 2, 2), 5, codebooks=2), StreamSpec("state", (3, 1, 1), 7, role="control"), frames=3
)
BOTH = ("state", "video")


def unigram() -> UnigramPrior:
    return UnigramPrior(UnigramConfig(BOTH), SPEC)


def temporal_bigram() -> TemporalBigramPrior:
    return TemporalBigramPrior(TemporalBigramConfig(BOTH), SPEC)


def chains(rows: int, steps: int, stay: float, seed: int = 0) -> torch.Tensor:
    """Tokens [N, t, 1, 1, 1] below 3: repeated with probability `stay`, else of probability 1/2, 1/3, 1/6."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.tensor([3.0, 2.0, 1.0]) / 6
    indices = torch.multinomial(probabilities, rows * steps, replacement=True, generator=generator).view(rows, steps)
    stays = torch.rand(rows, steps, generator=generator) < stay
    for t in range(1, steps):
        indices[:, t] = torch.where(stays[:, t], indices[:, t - 1], indices[:, t])
    return indices[:, :, None, None, None]


def increasing(prior: Prior, rows: int, seed: int) -> dict[str, torch.Tensor]:
    """Random tokens, most of them one more than the token one step before, which so predicts them."""
    tokens = random_tokens(prior, rows, seed)
    for stream in prior.spec.streams:
        indices = tokens[stream.name]
        for t in range(1, stream.grid[0]):
            increments = torch.rand(indices[:, t].shape, generator=torch.Generator().manual_seed(seed + t)) < 0.7
            indices[:, t] = torch.where(increments, (indices[:, t - 1] + 1) % stream.codebook_size, indices[:, t])
    return tokens


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("make", [unigram, temporal_bigram])
def test_contract(make, fitted: bool):
    prior: Prior = make()
    if fitted:
        prior.prepare([increasing(prior, 53, seed=1), increasing(prior, 37, seed=2)])
    order = prior.order()
    same_location = (order[:, None, [0, 2, 3, 4]] == order[None, :, [0, 2, 3, 4]]).all(-1)
    next_step = order[:, None, 1] + 1 == order[None, :, 1]
    reaches = same_location & next_step & fitted & isinstance(prior, TemporalBigramPrior)
    check_contract(prior, random_tokens(prior, 3), random_given(prior, 3, fraction=0.3), reaches)


@pytest.mark.parametrize("config", [UnigramConfig(), TemporalBigramConfig()])
def test_small_grid(config):
    spec = spec_of(StreamSpec("video", (3, 1, 2), 3), frames=3)
    prior = (UnigramPrior if isinstance(config, UnigramConfig) else TemporalBigramPrior)(config, spec)
    prior.prepare([random_tokens(prior, 3)])
    tokens, given = random_tokens(prior, 2, seed=1), random_given(prior, 2, fraction=0.2)
    check_normalised(prior, tokens, given)
    check_sample_frequencies(prior, tokens, given)


def test_unigram_counts_by_hand():
    """Tokens 0 0 0 1 of 3, plus half a count each: 3.5, 1.5 and 0.5 of 5.5; the second codebook has its own counts."""
    spec = spec_of(StreamSpec("video", (2, 1, 2), 3, codebooks=2), frames=2)
    prior = UnigramPrior(UnigramConfig(), spec)
    indices = torch.stack([torch.tensor([0, 0, 0, 1]), torch.tensor([2, 2, 2, 2])], 1).view(1, 2, 1, 2, 2)
    prior.prepare([{"video": indices}])
    found = prior.log_prob({"video": indices}, torch.zeros(1, 8, dtype=torch.bool))[0].exp()
    expected = torch.tensor([3.5, 4.5, 3.5, 4.5, 3.5, 4.5, 1.5, 4.5]) / 5.5
    torch.testing.assert_close(found, expected)


def test_table_approaches_the_true_chain():
    """From many tokens of a known chain: the table is the chain's own, and the first step has the frequencies."""
    spec = spec_of(StreamSpec("video", (7, 1, 1), 3), frames=7)
    prior = TemporalBigramPrior(TemporalBigramConfig(), spec)
    prior.prepare([{"video": batch} for batch in chains(6000, 7, stay=0.7).split(1000)])
    truth = 0.7 * torch.eye(3) + 0.3 * torch.tensor([3.0, 2.0, 1.0]) / 6
    torch.testing.assert_close(prior.table[:3].exp(), truth, atol=0.02, rtol=0)
    torch.testing.assert_close(prior.table[3].exp(), torch.tensor([3.0, 2.0, 1.0]) / 6, atol=0.02, rtol=0)


def test_smoothing_adapts_to_the_data():
    """Few clips, many tokens. On new clips the table beats the frequencies by far where the previous token is
    informative, and is close to them where it is not; it beats add-one smoothing in both cases.
    """
    size = 97
    spec = spec_of(StreamSpec("video", (5, 1, 1), size), frames=5)
    generator = torch.Generator().manual_seed(0)
    frequencies = 1 / torch.arange(1.0, size + 1)

    def clips(rows: int, stay: float) -> torch.Tensor:
        indices = torch.multinomial(frequencies, rows * 5, replacement=True, generator=generator).view(rows, 5)
        for t in range(1, 5):
            keep = torch.rand(rows, generator=generator) < stay
            indices[:, t] = torch.where(keep, indices[:, t - 1], indices[:, t])
        return indices[:, :, None, None, None]

    def nats(prior: Prior, indices: torch.Tensor) -> float:
        return float(prior.loss({"video": indices}, torch.zeros(len(indices), 5, dtype=torch.bool)))

    for stay, gain in ((0.0, -0.15), (0.7, 0.5)):
        fitting, fresh = clips(211, stay), clips(2003, stay)
        unigrams, bigrams = UnigramPrior(UnigramConfig(), spec), TemporalBigramPrior(TemporalBigramConfig(), spec)
        unigrams.prepare([{"video": fitting}])
        bigrams.prepare([{"video": fitting}])
        assert nats(bigrams, fresh) < nats(unigrams, fresh) - gain
        assert nats(bigrams, fresh) < add_one_nats(fitting, fresh, size)


def add_one_nats(fitting: torch.Tensor, fresh: torch.Tensor, size: int) -> float:
    counts = torch.ones(size + 1, size)
    for indices, previous in (
        (fitting[:, 1:], fitting[:, :-1]),
        (fitting[:, :1], torch.full_like(fitting[:, :1], size)),
    ):
        counts.index_put_((previous.flatten(), indices.flatten()), torch.tensor(1.0), accumulate=True)
    log_probs = (counts / counts.sum(1, keepdim=True)).log()
    first = log_probs[size, fresh[:, 0].flatten()].sum()
    later = log_probs[fresh[:, :-1].flatten(), fresh[:, 1:].flatten()].sum()
    return float(-(first + later) / fresh.numel())


def test_one_clip_is_enough_and_fitting_discards_earlier_counts():
    spec = spec_of(StreamSpec("video", (7, 1, 1), 3), frames=7)
    once, twice = (TemporalBigramPrior(TemporalBigramConfig(), spec) for _ in range(2))
    once.prepare([{"video": chains(1, 7, stay=0.5)}])
    twice.prepare([{"video": chains(11, 7, stay=0.9, seed=1)}])
    twice.prepare([{"video": chains(1, 7, stay=0.5)}])
    assert torch.equal(once.table, twice.table)
    torch.testing.assert_close(once.table.exp().sum(1), torch.ones(4))


def test_unfitted_is_uniform():
    prior = temporal_bigram()
    tokens = random_tokens(prior, 2)
    log_probs = prior.log_prob(tokens, torch.zeros(2, len(prior.order()), dtype=torch.bool))
    torch.testing.assert_close(log_probs, -prior.codebook_sizes().log().expand(2, -1))
    assert math.isfinite(float(log_probs.sum()))


def test_tokens_beyond_the_codebook_are_refused():
    prior = unigram()
    tokens = random_tokens(prior, 2)
    tokens["video"][0, 0, 0, 0, 0] = 5
    with pytest.raises(DataError, match=r"'video' has tokens from 0 to 5, beyond its codebook size 5"):
        prior.prepare([tokens])


def test_saved_and_loaded(tmp_path):
    prior = temporal_bigram()
    prior.prepare([random_tokens(prior, 7)])
    prior.save_pretrained(tmp_path)
    loaded = Prior.from_pretrained(tmp_path)
    assert isinstance(loaded, TemporalBigramPrior)
    assert loaded.predicts == BOTH
    assert torch.equal(loaded.table, prior.table)
