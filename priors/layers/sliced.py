"""Priors that generate a clip slice by slice: what they share, whatever a slice is and however it is computed.

Training draws one slice of each clip; sampling keeps caches of the slice that a row is in. A member says how a slice is
computed, whole and a few positions at a time. It draws no codes: `priors/sampling/video.py` does.

B rows, S slices, M codes of a slice, K codes of the codebook, L = S * M positions of the order.
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


class Part(NamedTuple):
    """Successive positions of one row in one slice."""

    row: int
    slice: int
    first: int  # counted from the start of the slice
    size: int
    column: int  # of the first one, among all positions of the row

    @property
    def last(self) -> int:
        return self.first + self.size - 1


def parts_by_slice(first: Sequence[int], counts: Sequence[int], per_slice: int) -> Iterator[list[Part]]:
    """Cuts `counts` positions of each row from `first` on into rounds with at most one part of a row in each."""
    done = [0] * len(first)
    while True:
        parts = []
        for row, (begin, count) in enumerate(zip(first, counts, strict=True)):
            if done[row] < count:
                index, inside = divmod(begin + done[row], per_slice)
                size = min(count - done[row], per_slice - inside)
                parts.append(Part(row, index, inside, size, done[row]))
                done[row] += size
        if not parts:
            return
        yield parts


_NOWHERE = -1  # the slice of a row whose caches hold none


class Clips(NamedTuple):
    """What is known of B clips."""

    indices: Tensor  # int64 [B, S, M]
    given: Tensor  # bool [B, S, M]
    read: dict[str, Tensor]  # the streams that the prior reads, int64 [B, t, h, w, q]

    def of_rows(self, rows: Tensor) -> Clips:
        read = {name: indices[rows] for name, indices in self.read.items()}
        return Clips(self.indices[rows], self.given[rows], read)


@dataclass
class SlicedState(State):
    """Codes given or fed so far, and the caches of the slice that each row is in."""

    flat: Tensor  # int64 [B, L + 1]; the last column takes what must not be kept
    clips: Clips  # its codes are a view of `flat`
    slice: list[int]  # of each row, the one that `cache` holds
    cache: Any  # the member's own


class SlicedPrior(Prior):
    """p(code | codes before it, what else the member lets condition it), in an order of S slices of M codes each."""

    def __init__(
        self, config: Any, spec: TokenSpec, order: Tensor, slices: int, name: str, reads: tuple[str, ...] = ()
    ) -> None:
        """`order` [L, 5] is that of the one stream `name` that is predicted."""
        super().__init__(config, spec, predicts=(name,), reads=reads)
        self._order = order
        self.slice_count, self.per_slice = slices, len(order) // slices
        self.codebook_size = spec.stream(name).codebook_size

    @abstractmethod
    def slice_nats(self, clips: Clips, index: Tensor, generator: torch.Generator | None) -> Tensor:
        """Minus log-probabilities [B, M] of the codes in slice `index` [B], whatever is at given ones."""

    @abstractmethod
    def new_cache(self, rows: int) -> Any:
        """Caches for so many rows, of a fixed shape."""

    @abstractmethod
    def enter(self, cache: Any, rows: Tensor, clips: Clips, index: Tensor) -> None:
        """Begins slice `index` [n] in `rows` [n] of the cache; `clips` are of these rows only."""

    @abstractmethod
    def compute(self, state: SlicedState, parts: list[Part], first: list[int]) -> None:
        """Computes what the positions of the parts need, in their slices from positions `first` on.

        Rows that need fewer may take others along, which count for nothing until they are reached.
        """

    @abstractmethod
    def write_log_probs(self, state: SlicedState, parts: list[Part], log_probs: Tensor) -> None:
        """Writes those of the positions of the parts, which are computed, into log_probs [B, n, K]."""

    def order(self) -> Tensor:
        return self._order

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        clips = self._clips(self.flatten(tokens), tokens, given)
        nats = torch.zeros(clips.indices.shape, device=given.device)
        for index in range(self.slice_count):
            if not clips.given[:, index].all():
                nats[:, index] = self.slice_nats(clips, torch.full_like(clips.indices[:, 0, 0], index), None)
        return -nats.flatten(1).masked_fill(given, 0)

    def loss(self, tokens: Tokens, given: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Of each clip one slice is drawn among those that hold a code to be predicted."""
        clips = self._clips(self.flatten(tokens), tokens, given)
        free = ~clips.given
        wanted = free.any(2)  # [B, S]
        lots = torch.rand(wanted.shape, generator=generator, device=wanted.device)
        index = lots.masked_fill(~wanted, -1).argmax(1)
        unseen = free[torch.arange(len(free), device=free.device), index]
        nats = (self.slice_nats(clips, index, generator) * unseen).sum(1)
        return (nats * wanted.sum(1)).sum() / free.sum()  # each drawn slice stands for all of its clip's

    @torch.no_grad()
    def start(self, tokens: Tokens, given: Tensor) -> SlicedState:
        rows, length = given.shape
        position = torch.where(given.all(1), length, (~given).int().argmax(1))
        flat = F.pad(self.flatten(tokens).masked_fill(~given, 0), (0, 1))
        clips = self._clips(flat[:, :-1], tokens, given.clone())
        state = SlicedState(position, torch.empty(0), flat, clips, [_NOWHERE] * rows, self.new_cache(rows))
        first = position.tolist()
        state.log_probs = self._predict(state, first, [int(at < length) for at in first], 1)[:, 0]
        return state

    @torch.no_grad()
    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, SlicedState)
        length = len(self._order)
        line = torch.arange(indices.shape[1], device=indices.device)
        at = (state.position[:, None] + line).where(line < count[:, None], length)
        state.flat.scatter_(1, at, indices)
        first, counts = torch.stack([state.position + 1, count]).tolist()  # one wait for the device
        state.position = state.position + count
        counts = [min(n, length - at) for n, at in zip(counts, first, strict=True)]
        return self._predict(state, first, counts, indices.shape[1])

    def rewind(self, state: State, position: Tensor) -> None:
        """A row that goes back behind the start of its slice fills its caches again when it needs them."""
        assert isinstance(state, SlicedState)
        for row, at in enumerate(position.tolist()):
            if at // self.per_slice < state.slice[row]:
                state.slice[row] = _NOWHERE
        state.position = position

    def _clips(self, flat: Tensor, tokens: Tokens, given: Tensor) -> Clips:
        indices, seen = (x.unflatten(1, (self.slice_count, self.per_slice)) for x in (flat, given))
        return Clips(indices, seen, {name: tokens[name].long() for name in self.reads})

    def _predict(self, state: SlicedState, first: list[int], counts: list[int], width: int) -> Tensor:
        """Log-probabilities [B, width, K] of `counts` positions of each row from `first` on; elsewhere zero."""
        log_probs = torch.zeros(len(first), width, self.codebook_size, device=state.flat.device)
        for parts in parts_by_slice(first, counts, self.per_slice):
            entering = [part for part in parts if state.slice[part.row] != part.slice]
            staying = [part for part in parts if state.slice[part.row] == part.slice]
            if entering:
                self._enter(state, entering)
                self.compute(state, entering, [0] * len(entering))
            if staying:
                self.compute(state, staying, [part.first for part in staying])
            self.write_log_probs(state, parts, log_probs)
        return log_probs

    def _enter(self, state: SlicedState, parts: list[Part]) -> None:
        table = torch.tensor([(part.row, part.slice) for part in parts], device=state.flat.device)
        rows, index = table.T
        self.enter(state.cache, rows, state.clips.of_rows(rows), index)
        for part in parts:
            state.slice[part.row] = part.slice
