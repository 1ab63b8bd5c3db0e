"""Base class of priors that generate a clip slice by slice, whatever a slice is and however it is computed.

Training computes one random slice of each clip; sampling keeps caches of the slice that each row is in. A subclass says
how a slice is computed, at once and a few positions at a time.

B rows, S slices, M tokens of a slice, K codebook size, L = S * M positions of the order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreel.data.spec import TokenSpec
from tokenreel.priors.base import Prior, State, Tokens
from tokenreel.sample_random import SampleRandom


class SliceSpan(NamedTuple):
    """Successive positions of one row in one slice."""

    row: int
    slice: int
    first: int  # counted from the start of the slice
    size: int
    column: int  # of the first one, among all positions requested of the row

    @property
    def last(self) -> int:
        return self.first + self.size - 1


def split_by_slice(first: Sequence[int], counts: Sequence[int], slice_length: int) -> Iterator[list[SliceSpan]]:
    """Splits `counts` positions of each row from `first` on into rounds with at most one span per row."""
    done = [0] * len(first)
    while True:
        spans = []
        for row, (start, count) in enumerate(zip(first, counts, strict=True)):
            if done[row] < count:
                index, inside = divmod(start + done[row], slice_length)
                size = min(count - done[row], slice_length - inside)
                spans.append(SliceSpan(row, index, inside, size, done[row]))
                done[row] += size
        if not spans:
            return
        yield spans


_NO_SLICE = -1  # the slice of a row whose caches are empty


class ClipTokens(NamedTuple):
    """The tokens of B clips, slice by slice, and which of them are given."""

    indices: Tensor  # int64 [B, S, M]
    given: Tensor  # bool [B, S, M]
    read: dict[str, Tensor]  # the streams that the prior reads, int64 [B, t, h, w, q]

    def select(self, rows: Tensor) -> ClipTokens:
        read = {name: indices[rows] for name, indices in self.read.items()}
        return ClipTokens(self.indices[rows], self.given[rows], read)


@dataclass
class SlicedState(State):
    """The tokens given or fed so far, and the caches of the slice that each row is in."""

    flat: Tensor  # int64 [B, L + 1]; the last column takes writes to be discarded
    clips: ClipTokens  # its indices are a view of `flat`
    slice: list[int]  # of each row, the one in `cache`
    cache: Any  # the subclass's own


class SlicedPrior(Prior):
    """p(token | tokens before it, whatever else the subclass conditions on), in an order of S slices of M tokens."""

    def __init__(
        self, config: Any, spec: TokenSpec, order: Tensor, slices: int, name: str, reads: tuple[str, ...] = ()
    ) -> None:
        """`order` [L, 5] is that of `name`, the one stream that is predicted."""
        super().__init__(config, spec, predicts=(name,), reads=reads)
        self._order = order
        self.slice_count, self.slice_length = slices, len(order) // slices
        self.codebook_size = spec.stream(name).codebook_size

    @abstractmethod
    def slice_nats(self, clips: ClipTokens, index: Tensor, random: SampleRandom | None) -> Tensor:
        """Negative log-probabilities [B, M] of the tokens in slice `index` [B]; any value at given ones."""

    @abstractmethod
    def new_cache(self, rows: int) -> Any:
        """Caches of fixed shape for so many rows."""

    @abstractmethod
    def begin_slice(self, cache: Any, rows: Tensor, clips: ClipTokens, index: Tensor) -> None:
        """Begins slice `index` [n] in `rows` [n] of the cache; `clips` are those of these rows."""

    @abstractmethod
    def compute(self, state: SlicedState, spans: list[SliceSpan], first: list[int]) -> None:
        """Computes into the cache what the spans' positions need, in their slices from positions `first` on.

        Rows with shorter spans may compute more than that; it is computed again when they get there.
        """

    @abstractmethod
    def write_log_probs(self, state: SlicedState, spans: list[SliceSpan], log_probs: Tensor) -> None:
        """Writes the log-probabilities at the spans' positions, which are computed, into log_probs [B, n, K]."""

    def order(self) -> Tensor:
        return self._order

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        clips = self._clips(self.flatten(tokens), tokens, given)
        nats = torch.zeros(clips.indices.shape, device=given.device)
        for index in range(self.slice_count):
            if not clips.given[:, index].all():
                nats[:, index] = self.slice_nats(clips, torch.full_like(clips.indices[:, 0, 0], index), None)
        return -nats.flatten(1).masked_fill(given, 0)

    def loss(self, tokens: Tokens, given: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Computes one slice of each clip, chosen at random among those with a token that is not given."""
        clips = self._clips(self.flatten(tokens), tokens, given)
        free = ~clips.given
        predicted = free.any(2)  # [B, S]
        random = random or SampleRandom.unrepeatable(len(free), free.device)
        scores = random.rand(self.slice_count)
        index = scores.masked_fill(~predicted, -1).argmax(1)
        targets = free[torch.arange(len(free), device=free.device), index]
        nats = (self.slice_nats(clips, index, random) * targets).sum(1)
        return (nats * predicted.sum(1)).sum() / free.sum()  # each chosen slice represents all slices of its clip

    @torch.no_grad()
    def start(self, tokens: Tokens, given: Tensor) -> SlicedState:
        rows, length = given.shape
        position = torch.where(given.all(1), length, (~given).int().argmax(1))
        flat = F.pad(self.flatten(tokens).masked_fill(~given, 0), (0, 1))
        clips = self._clips(flat[:, :-1], tokens, given.clone())
        state = SlicedState(position, torch.empty(0), flat, clips, [_NO_SLICE] * rows, self.new_cache(rows))
        first = position.tolist()
        state.log_probs = self._predict(state, first, [int(at < length) for at in first], 1)[:, 0]
        return state

    @torch.no_grad()
    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, SlicedState)
        length = len(self._order)
        offsets = torch.arange(indices.shape[1], device=indices.device)
        at = (state.position[:, None] + offsets).where(offsets < count[:, None], length)
        state.flat.scatter_(1, at, indices)
        first, counts = torch.stack([state.position + 1, count]).tolist()  # one synchronisation with the device
        state.position = state.position + count
        counts = [min(n, length - at) for n, at in zip(counts, first, strict=True)]
        return self._predict(state, first, counts, indices.shape[1])

    def rewind(self, state: State, position: Tensor) -> None:
        """Drops the caches of rows that leave their slice; they are filled again when needed."""
        assert isinstance(state, SlicedState)
        for row, at in enumerate(position.tolist()):
            if at // self.slice_length < state.slice[row]:
                state.slice[row] = _NO_SLICE
        state.position = position

    def _clips(self, flat: Tensor, tokens: Tokens, given: Tensor) -> ClipTokens:
        indices, given = (x.unflatten(1, (self.slice_count, self.slice_length)) for x in (flat, given))
        return ClipTokens(indices, given, {name: tokens[name].long() for name in self.reads})

    def _predict(self, state: SlicedState, first: list[int], counts: list[int], width: int) -> Tensor:
        """Log-probabilities [B, width, K] of `counts` positions of each row from `first` on; zero elsewhere."""
        log_probs = torch.zeros(len(first), width, self.codebook_size, device=state.flat.device)
        for spans in split_by_slice(first, counts, self.slice_length):
            new = [span for span in spans if state.slice[span.row] != span.slice]
            continued = [span for span in spans if state.slice[span.row] == span.slice]
            if new:
                self._begin_slices(state, new)
                self.compute(state, new, [0] * len(new))
            if continued:
                self.compute(state, continued, [span.first for span in continued])
            self.write_log_probs(state, spans, log_probs)
        return log_probs

    def _begin_slices(self, state: SlicedState, spans: list[SliceSpan]) -> None:
        entries = torch.tensor([(span.row, span.slice) for span in spans], device=state.flat.device)
        rows, index = entries.T
        self.begin_slice(state.cache, rows, state.clips.select(rows), index)
        for span in spans:
            state.slice[span.row] = span.slice
