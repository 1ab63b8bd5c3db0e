"""Feeds tokens to a prior step by step, as a sampler does, and records the log-probs that it gives them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tokenreel.priors.base import Prior, State, Tokens

TOLERANCE = 1e-4  # nats: float32 sums in another order; a leak through scrambled weights is far larger


def start(prior: Prior, tokens: Tokens, given: Tensor) -> State:
    """`Prior.start` without gradients."""
    with torch.no_grad():
        return prior.start(tokens, given)


def feed(prior: Prior, tokens: Tokens, given: Tensor, counts: Iterator[Tensor]) -> Tensor:
    """Log-probs [B, L] of `tokens` by feeding them, in each step as many per row as the next of `counts` says."""
    *_, found = feeding(prior, tokens, given, counts)
    return found


def feeding(prior: Prior, tokens: Tokens, given: Tensor, counts: Iterator[Tensor]) -> Iterator[Tensor]:
    """Like `feed`, but yields after `start` and after each step: always the same tensor, which is being filled in."""
    flat, state = prior.flatten(tokens), start(prior, tokens, given)
    found = torch.zeros(given.shape)
    record(prior, found, state.log_probs[:, None], flat, given, state.position - 1, torch.ones_like(state.position))
    yield found
    generator = torch.Generator().manual_seed(1)
    while (state.position < given.shape[1]).any():
        wanted, position = next(counts), state.position.clone()
        count = torch.minimum(wanted, given.shape[1] - position)
        offsets = torch.arange(max(int(wanted.max()), 1))
        noise = _noise(prior, (len(flat), len(offsets)), generator)
        indices = torch.where(offsets < count[:, None], tokens_at(flat, position[:, None] + offsets), noise)
        with torch.no_grad():
            log_probs = prior.step(state, indices, count)
        assert torch.equal(state.position, position + count), "step: state.position did not advance by `count`"
        record(prior, found, log_probs, flat, given, position, count)
        yield found


def _noise(prior: Prior, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Half valid in every codebook, as a stale token may be, half any int64, as uninitialised memory may be."""
    valid = torch.randint(int(prior.codebook_sizes().min()), shape, generator=generator)
    limits = torch.iinfo(torch.long)
    anything = torch.randint(limits.min, limits.max, shape, generator=generator)
    return valid.where(torch.rand(shape, generator=generator) < 0.5, anything)


def tokens_at(flat: Tensor, positions: Tensor) -> Tensor:
    """[B, n]: `flat` [B, L] at `positions` [B, n]; beyond the order, its last token."""
    return flat.gather(1, positions.clamp(max=flat.shape[1] - 1))


def record(
    prior: Prior, found: Tensor, log_probs: Tensor, flat: Tensor, given: Tensor, position: Tensor, count: Tensor
) -> None:
    """Writes into `found` [B, L] the log-probs [B, n, K] of the free tokens after each of the `count` [B] tokens fed
    from `position` [B] on, which must be distributions.
    """
    after = position[:, None] + 1 + torch.arange(log_probs.shape[1])
    row, i = ((after < found.shape[1]) & (after <= (position + count)[:, None])).nonzero().unbind(1)
    assert_distributions(prior, log_probs[row, i], after[row, i])
    free = ~given[row, after[row, i]]
    row, i = row[free], i[free]
    found[row, after[row, i]] = log_probs[row, i, flat[row, after[row, i]]].to(found)


def assert_distributions(prior: Prior, log_probs: Tensor, positions: Tensor) -> None:
    """log_probs [B, K] are distributions over the codebooks at `positions` [B], -inf beyond them."""
    assert ((log_probs.exp().sum(1) - 1).abs() < TOLERANCE).all(), "start or step: probabilities do not sum to 1"
    beyond = torch.arange(log_probs.shape[1]) >= prior.codebook_sizes()[positions.cpu()][:, None]
    assert (log_probs.cpu()[beyond] == -torch.inf).all(), "start or step: a token beyond the codebook has probability"
