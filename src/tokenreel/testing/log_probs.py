"""Log-probs of a prior as its checks compare them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tokenreel.priors.base import Prior, Tokens
from tokenreel.testing.feeding import TOLERANCE


def row_of(tokens: Tokens, row: int) -> dict[str, Tensor]:
    return {name: indices[row : row + 1] for name, indices in tokens.items()}


def log_prob(prior: Prior, tokens: Tokens, given: Tensor) -> Tensor:
    with torch.no_grad():
        return prior.log_prob(tokens, given)


def log_prob_flat(prior: Prior, flat: Tensor, tokens: Tokens, given: Tensor, row: int) -> Tensor:
    """Log-probs [n, L] of many sequences `flat` [n, L] with what is given in one row."""
    shared = {name: indices[row : row + 1].expand(len(flat), *indices.shape[1:]) for name, indices in tokens.items()}
    return log_prob(prior, {**shared, **prior.unflatten(flat, shared)}, given[row].expand(len(flat), -1))


def all_sequences(prior: Prior, tokens: Tokens, given: Tensor, row: int) -> Tensor:
    """int64 [n, L]: every sequence with the given tokens of the row."""
    flat, sizes = prior.flatten(row_of(tokens, row))[0], prior.codebook_sizes()
    choices = [[int(token)] if g else range(int(k)) for token, g, k in zip(flat, given[row], sizes, strict=True)]
    return torch.tensor(list(itertools.product(*choices)))


def assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    """Log-probs that must be those of one teacher-forced pass."""
    difference = (found - expected).abs().max().item()
    assert difference <= TOLERANCE, f"{what}: log-probs differ from those of log_prob by {difference:.1e} nats"
