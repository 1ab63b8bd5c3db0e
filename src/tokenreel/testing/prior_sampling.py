"""Checks of what is sampled from a prior: `tokens` and `given` as in `tokenreel.testing.priors`."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreel.priors.base import Prior, Tokens
from tokenreel.priors.sampling.logits import SamplingConfig
from tokenreel.priors.sampling.video import sample
from tokenreel.testing.log_probs import all_sequences, assert_close, log_prob, log_prob_flat, row_of


def check_speculative_equals_plain(
    prior: Prior, tokens: Tokens, given: Tensor, speculate: tuple[int | None, ...] = (1, 5, None)
) -> None:
    """Speculative decoding gives the tokens of plain sampling in no more forward passes, with correct log-probs."""
    samples = torch.arange(len(given))
    plain = sample(prior, tokens, given, SamplingConfig(speculate=0), seed=7, samples=samples)
    expected = prior.unflatten(-log_prob(prior, {**tokens, **plain.tokens}, given))
    for drafts in speculate:
        found = sample(prior, tokens, given, SamplingConfig(speculate=drafts), seed=7, samples=samples)
        for name in prior.predicts:
            how = f"{name!r} by speculative decoding of {drafts}"
            assert torch.equal(found.tokens[name], plain.tokens[name]), f"sample: {how} has other tokens"
            assert_close(found.nats[name], expected[name], f"sample: nats of {how}")
        assert found.tokens_sampled == plain.tokens_sampled == int((~given).sum()), "sample: tokens_sampled is wrong"
        assert found.forwards <= plain.forwards, "sample: speculative decoding took more forward passes"


def check_samples_independent_of_batch(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """The tokens of a sample and their log-probs depend on its own id, not on the batch that it is sampled in."""
    together = sample(prior, tokens, given, SamplingConfig(), seed=3, samples=torch.arange(len(given)) + 11)
    for row in range(len(given)):
        alone = sample(
            prior, row_of(tokens, row), given[row : row + 1], SamplingConfig(), seed=3, samples=torch.tensor([row + 11])
        )
        for name in prior.predicts:
            how = f"{name!r} of sample {row} alone and in a batch"
            assert torch.equal(alone.tokens[name][0], together.tokens[name][row]), f"sample: {how} differs"
            assert_close(alone.nats[name][0], together.nats[name][row], f"sample: nats of {how}")


def check_sample_frequencies(prior: Prior, tokens: Tokens, given: Tensor, rows: int = 4096, speculate: int = 0) -> None:
    """Frequencies of sampled sequences agree with the prior's probabilities (chi-square; given tokens of row 0)."""
    sequences = all_sequences(prior, tokens, given, 0)
    expected = rows * log_prob_flat(prior, sequences, tokens, given, 0).double().sum(1).exp()
    repeated = {name: indices[:1].expand(rows, *indices.shape[1:]) for name, indices in tokens.items()}
    sampled = sample(
        prior,
        repeated,
        given[:1].expand(rows, -1),
        SamplingConfig(speculate=speculate),
        seed=5,
        samples=torch.arange(rows),
    )
    both = torch.cat([sequences, prior.flatten({**repeated, **sampled.tokens})])
    unique, inverse = both.unique(dim=0, return_inverse=True)
    assert len(unique) == len(sequences), "sample: changed a given token"
    found = torch.bincount(inverse[len(sequences) :], minlength=len(unique))[inverse[: len(sequences)]].double()
    rare = expected < 5  # joined in one cell, as the chi-square approximation requires
    expected = torch.cat([expected[~rare], expected[rare].sum()[None].clamp(min=1e-9)])
    found = torch.cat([found[~rare], found[rare].sum()[None]])
    freedom = len(found) - 1
    assert freedom >= 2, "the prior is too certain for this check"
    statistic = ((found - expected) ** 2 / expected).sum().item()
    limit = freedom + 5 * (2 * freedom) ** 0.5
    assert statistic < limit, f"sample: frequencies differ from log_prob: chi-square {statistic:.0f}, limit {limit:.0f}"
