"""Two priors that are counted, not trained: the baselines that every other prior has to beat.

`unigram` knows how often each code of a codebook comes; `temporal-bigram` knows which code follows which at the
same place one step later, and falls back on the frequencies at the first step. They keep the whole contract, so what
measures or samples a prior measures or samples them.

B rows, L positions, n codes fed at once, K codes of a codebook.
"""

from __future__ import annotations

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


@dataclass
class _History(State):
    """All codes of a row so far. One column more than the order: codes past its end are written there."""

    indices: Tensor  # int64 [B, L + 1]


class _Counted(Prior):
    """Log-probabilities out of one table. A member says how its rows are counted, and which one a position looks at."""

    tally: ClassVar[type[UnigramCounts]]
    table: Tensor  # float32 [rows, K] nats, -inf beyond a codebook; the codebooks' rows one after the other
    _first_row: Tensor  # int64 [L], the row of the table where the codebook of each position starts

    def __init__(self, config: Any, spec: TokenSpec) -> None:
        names = tuple(config.predicts) or tuple(stream.name for stream in spec.levels)
        super().__init__(config, spec, predicts=names)
        self._order = raster_order(spec, names)
        self._codebooks = [(stream, q) for stream in map(spec.stream, names) for q in range(stream.codebooks)]
        first_row = torch.empty(len(self._order), dtype=torch.long)
        blocks = list[Tensor]()
        for stream, q in self._codebooks:
            here = self.positions_of(stream.name) & (self._order[:, 4] == q)
            first_row[here] = sum(len(block) for block in blocks)
            blocks.append(
                torch.full((self.tally.rows(stream.codebook_size), stream.codebook_size), 1 / stream.codebook_size)
            )
        self.register_buffer("table", _log_table(blocks))  # uniform until `fit`
        self.register_buffer("_first_row", first_row, persistent=False)

    def fit(self, batches: Iterable[Tokens]) -> None:
        """Counts the codes of all `batches`, each a mapping of stream names to codes [N, t, h, w, q].

        What it learnt before is forgotten. Raises DataError where a code is beyond its codebook.
        """
        tallies = [self.tally(stream.codebook_size) for stream, _ in self._codebooks]
        for tokens in batches:
            for (stream, q), tally in zip(self._codebooks, tallies, strict=True):
                indices = tokens[stream.name][..., q].long().cpu().flatten(2)
                if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < stream.codebook_size:
                    raise DataError(
                        f"stream {stream.name!r} has tokens from {int(indices.min())} to {int(indices.max())}, beyond "
                        f"its codebook of {stream.codebook_size}: these tokens come from another tokenizer"
                    )
                tally.add(indices)
        self.table.copy_(_log_table([tally.probabilities() for tally in tallies]))

    def order(self) -> Tensor:
        return self._order

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        indices = self.flatten(tokens)
        positions = torch.arange(indices.shape[1], device=indices.device).expand_as(indices)
        rows = self._rows(indices, positions)
        return self.table[rows, indices.masked_fill(given, 0)].masked_fill(given, 0)

    def loss(self, tokens: Tokens, given: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The mean nats, for validation: there is nothing to train, see `fit`."""
        return -self.log_prob(tokens, given).sum() / (~given).sum()

    def start(self, tokens: Tokens, given: Tensor) -> _History:
        indices = torch.nn.functional.pad(self.flatten(tokens).masked_fill(~given, 0), (0, 1))
        position = given.long().cumprod(1).sum(1)
        return _History(position, self._log_probs(indices, position[:, None])[:, 0], indices)

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, _History)
        length, n = state.indices.shape[1] - 1, indices.shape[1]
        lines = torch.arange(n, device=indices.device)
        at = (state.position[:, None] + lines).where(lines < count[:, None], length)
        state.indices.scatter_(1, at, indices)
        after = state.position[:, None] + lines + 1
        state.position = state.position + count
        return self._log_probs(state.indices, after)

    def rewind(self, state: State, position: Tensor) -> None:
        state.position = position.clone()  # what lies beyond is written anew before it is looked at

    def _log_probs(self, indices: Tensor, positions: Tensor) -> Tensor:
        """[B, n, K] for `positions` [B, n], those past the end as the last one."""
        return self.table[self._rows(indices, positions.clamp(max=len(self._order) - 1))]

    @abstractmethod
    def _rows(self, indices: Tensor, positions: Tensor) -> Tensor:
        """int64 [B, n]: the row of the table for each of `positions` [B, n] after the `indices` [B, >= L] before it."""


@dataclass(frozen=True)
class UnigramConfig:
    type: ClassVar[str] = "unigram"
    predicts: tuple[str, ...] = ()  # stream names; none: every level


class UnigramPrior(_Counted):
    """p(code | codebook), additively smoothed."""

    config_class = UnigramConfig
    tally = UnigramCounts

    def _rows(self, indices: Tensor, positions: Tensor) -> Tensor:
        return self._first_row[positions]


@dataclass(frozen=True)
class TemporalBigramConfig:
    type: ClassVar[str] = "temporal-bigram"
    predicts: tuple[str, ...] = ()  # stream names; none: every level


class TemporalBigramPrior(_Counted):
    """p(code | code at the same place and codebook one step before), Kneser-Ney smoothed (see `BigramCounts`).

    The table has K x K float32 entries a codebook: 4 MB for 1,024 codes, 1 GB for 16,384.
    """

    config_class = TemporalBigramConfig
    tally = BigramCounts
    _before: Tensor  # int64 [L], the position one step before, L at the first step
    _none: Tensor  # int64 [L], K: the row, from the codebook's first on, for nothing before

    def __init__(self, config: TemporalBigramConfig, spec: TokenSpec) -> None:
        super().__init__(config, spec)
        order = self._order
        shapes = torch.tensor([stream.shape for stream in spec.streams])[order[:, 0]]
        before = torch.arange(len(order)) - shapes[:, 1:].prod(1)
        self.register_buffer("_before", before.where(order[:, 1] > 0, len(order)), persistent=False)
        self.register_buffer("_none", self.codebook_sizes(), persistent=False)

    def _rows(self, indices: Tensor, positions: Tensor) -> Tensor:
        before = self._before[positions]
        first = before == len(self._order)
        seen = indices.gather(1, before.masked_fill(first, 0))
        return self._first_row[positions] + torch.where(first, self._none[positions], seen)


def _log_table(blocks: list[Tensor]) -> Tensor:
    """float32 [rows, K]: logarithms of the blocks' probabilities, one below another, -inf where a block is narrower."""
    widest = max(block.shape[1] for block in blocks)
    return torch.cat([torch.nn.functional.pad(block, (0, widest - block.shape[1])) for block in blocks]).log().float()
