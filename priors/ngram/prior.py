"""Two priors that are counted, not trained: the baselines that every other prior has to beat.

`unigram` counts how often each token occurs; `temporal-bigram` counts which token follows which at the same location
one step later, and uses the unigram probabilities at the first step. They satisfy the whole contract of priors, so they
are scored and sampled like any other.

B rows, L positions, n tokens fed at once, K codebook size.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenreel.data.spec import TokenSpec
from tokenreel.errors import DataError
from tokenreel.priors.base import Prior, State, Tokens, raster_order
from tokenreel.priors.ngram.counts import BigramCounts, UnigramCounts
from tokenreel.sample_random import SampleRandom


@dataclass
class _History(State):
    """All tokens of a row so far. It has one column more than the order, for tokens beyond its end."""

    indices: Tensor  # int64 [B, L + 1]


class _CountedPrior(Prior):
    """Log-probabilities from one table. A subclass says how its rows are counted, and which one a position uses."""

    counts_class: ClassVar[type[UnigramCounts]]
    table: Tensor  # float32 [rows, K] nats, -inf beyond a codebook; the codebooks' rows one after the other
    _first_row: Tensor  # int64 [L], the first row of the codebook of each position

    def __init__(self, config: Any, spec: TokenSpec) -> None:
        names = tuple(config.predicts) or tuple(stream.name for stream in spec.levels)
        super().__init__(config, spec, predicts=names)
        self._order = raster_order(spec, names)
        sizes = [stream.codebook_size for stream, _ in self.codebooks()]
        blocks = [torch.full((self.counts_class.rows(size), size), 1 / size) for size in sizes]
        first_rows = torch.tensor([0, *itertools.accumulate(len(block) for block in blocks)], device="cpu")
        self.register_buffer("table", _log_table(blocks))  # uniform until `prepare`
        self.register_buffer("_first_row", first_rows[self.codebook_index()], persistent=False)

    def prepare(self, clips: Iterable[Tokens]) -> None:
        """Counts the tokens of all `clips`, in batches [N, t, h, w, q] by stream name.

        Earlier counts are discarded. Raises DataError where a token is beyond its codebook.
        """
        codebooks = self.codebooks()
        counts = [self.counts_class(stream.codebook_size) for stream, _ in codebooks]
        for tokens in clips:
            for (stream, q), counted in zip(codebooks, counts, strict=True):
                indices = tokens[stream.name][..., q].long().cpu().flatten(2)
                if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < stream.codebook_size:
                    raise DataError(
                        f"stream {stream.name!r} has tokens from {int(indices.min())} to {int(indices.max())}, beyond "
                        f"its codebook size {stream.codebook_size}: these tokens come from another tokenizer"
                    )
                counted.add(indices)
        self.table.copy_(_log_table([counted.probabilities() for counted in counts]))

    def order(self) -> Tensor:
        return self._order

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        indices = self.flatten(tokens)
        positions = torch.arange(indices.shape[1], device=indices.device).expand_as(indices)
        rows = self._rows(indices, positions)
        return self.table[rows, indices.masked_fill(given, 0)].masked_fill(given, 0)

    def loss(self, tokens: Tokens, given: Tensor, random: SampleRandom | None = None) -> Tensor:
        """The mean nats, for validation: there is nothing to train (see `prepare`)."""
        return -self.log_prob(tokens, given).sum() / (~given).sum()

    def start(self, tokens: Tokens, given: Tensor) -> _History:
        indices = torch.nn.functional.pad(self.flatten(tokens).masked_fill(~given, 0), (0, 1))
        position = given.long().cumprod(1).sum(1)
        return _History(position, self._log_probs(indices, position[:, None])[:, 0], indices)

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, _History)
        length, n = state.indices.shape[1] - 1, indices.shape[1]
        offsets = torch.arange(n, device=indices.device)
        at = (state.position[:, None] + offsets).where(offsets < count[:, None], length)
        state.indices.scatter_(1, at, indices)
        after = state.position[:, None] + offsets + 1
        state.position = state.position + count
        return self._log_probs(state.indices, after)

    def rewind(self, state: State, position: Tensor) -> None:
        state.position = position.clone()  # what is beyond is overwritten before it is read

    def _log_probs(self, indices: Tensor, positions: Tensor) -> Tensor:
        """[B, n, K] at `positions` [B, n]; positions beyond the end count as the last one."""
        return self.table[self._rows(indices, positions.clamp(max=len(self._order) - 1))]

    @abstractmethod
    def _rows(self, indices: Tensor, positions: Tensor) -> Tensor:
        """int64 [B, n]: the row of the table for each of `positions` [B, n], given the tokens `indices` [B, >= L]."""


@dataclass(frozen=True)
class UnigramConfig:
    type: ClassVar[str] = "unigram"
    predicts: tuple[str, ...] = ()  # stream names; none: all levels


class UnigramPrior(_CountedPrior):
    """p(token) of each codebook, additively smoothed."""

    config_class = UnigramConfig
    counts_class = UnigramCounts

    def _rows(self, indices: Tensor, positions: Tensor) -> Tensor:
        return self._first_row[positions]


@dataclass(frozen=True)
class TemporalBigramConfig:
    type: ClassVar[str] = "temporal-bigram"
    predicts: tuple[str, ...] = ()  # stream names; none: all levels


class TemporalBigramPrior(_CountedPrior):
    """p(token | token at the same location and codebook one step before), Kneser-Ney smoothed (see `BigramCounts`).

    The table has K x K float32 entries per codebook: 4 MB for K = 1,024, 1 GB for K = 16,384.
    """

    config_class = TemporalBigramConfig
    counts_class = BigramCounts
    _previous: Tensor  # int64 [L], the position one step before, L at the first step
    _no_previous: Tensor  # int64 [L], K: the row, counted from the codebook's first, for the first step

    def __init__(self, config: TemporalBigramConfig, spec: TokenSpec) -> None:
        super().__init__(config, spec)
        order = self._order
        shapes = torch.tensor([stream.shape for stream in spec.streams], device="cpu")[order[:, 0]]
        previous = torch.arange(len(order), device="cpu") - shapes[:, 1:].prod(1)
        self.register_buffer("_previous", previous.where(order[:, 1] > 0, len(order)), persistent=False)
        self.register_buffer("_no_previous", self.codebook_sizes(), persistent=False)

    def _rows(self, indices: Tensor, positions: Tensor) -> Tensor:
        previous = self._previous[positions]
        first = previous == len(self._order)
        tokens = indices.gather(1, previous.masked_fill(first, 0))
        return self._first_row[positions] + torch.where(first, self._no_previous[positions], tokens)


def _log_table(blocks: list[Tensor]) -> Tensor:
    """float32 [rows, K]: the logarithms of the blocks' probabilities, concatenated; -inf where a block is narrower."""
    widest = max(block.shape[1] for block in blocks)
    return torch.cat([torch.nn.functional.pad(block, (0, widest - block.shape[1])) for block in blocks]).log().float()
