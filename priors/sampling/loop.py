"""Samples one window of a prior: the loop that all sampling runs through.

Invariant: in each row everything up to and including the token at `position` is known, and the prior's cache holds
everything before it. A forward pass feeds a block: that token, the given tokens after it, and drafts. At least one more
token becomes known by it.

B rows, L positions of the order, n tokens of a block, K size of the largest codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.errors import CheckpointError
from tokenreel.priors.base import Prior, Tokens
from tokenreel.priors.sampling.guidance import UnconditionalPass, guided
from tokenreel.priors.sampling.logits import TokenSampler
from tokenreel.priors.sampling.speculative import (
    CHOOSE_EVERY,
    accepted_prefix,
    best_drafts,
    block_ends,
    count_copies,
    draft_sources,
)

_MAX_BLOCK = 128  # tokens; more given ones in a row are fed in several blocks, so that [B, n, K] log-probs stay small

OnTokens = Callable[[int], None]


def ignore(count: int) -> None:
    """For a caller that does not show progress."""


@dataclass(frozen=True)
class Window:
    """What is to be sampled; all on the prior's device."""

    tokens: Tokens  # every stream [B, t, h, w, q]; tokens that are not given are never read
    given: Tensor  # bool [B, L]
    free: Tensor  # bool [B, L], the positions to sample: all that are not given, up to the row's last one
    numbers: Tensor  # float64 [B, L], uniform in (0, 1)
    unconditional: Tokens | None = None  # `tokens` with dropped controls, for the second pass of guidance
    guidance: float = 1.0


@dataclass(frozen=True)
class WindowSample:
    """Tokens in generation order, and their cost."""

    indices: Tensor  # int64 [B, L], 0 where neither given nor sampled
    nats: Tensor  # float32 [B, L], negative log-probabilities under the prior itself; 0 where not sampled
    forwards: int  # forward passes of the prior


def sample_window(
    prior: Prior, window: Window, sampler: TokenSampler, speculate: int | None, on_tokens: OnTokens = ignore
) -> WindowSample:
    """Samples every position of `window.free`, with `speculate` drafts (None: as many as pay). `on_tokens` is called
    now and then with the number of tokens sampled since.

    Raises CheckpointError where probabilities are not finite.
    """
    if not window.free.any():
        indices = prior.flatten(window.tokens).masked_fill(~window.given, 0)
        return WindowSample(indices, torch.zeros(indices.shape, device=indices.device), 0)
    length = window.free.shape[1]
    loop = _Loop(prior, window, sampler, min(speculate or 0, length), speculate is None)
    left = int(window.free.sum())
    while remaining := loop.max_remaining():
        steps = -(-remaining // (loop.speculate + 1))  # no row is done sooner; asking synchronises with the device
        for _ in range(min(steps, CHOOSE_EVERY)):
            loop.advance()
        left, before = loop.count_remaining(), left
        on_tokens(before - left)
        if speculate is None:
            loop.choose_drafts()
    nats = loop.nats[:, :-1].masked_fill(~window.free, 0)
    if not nats.isfinite().all():
        raise CheckpointError(
            "the prior's probabilities are not finite: its weights contain NaN; use an earlier checkpoint"
        )
    return WindowSample(loop.indices[:, :-1], nats, loop.forwards)


class _Loop:
    """The arrays have one column more than the order, at L: it takes writes to be discarded, and reads as 0."""

    def __init__(self, prior: Prior, window: Window, sampler: TokenSampler, speculate: int, choose: bool) -> None:
        self.prior, self.sampler, self.forwards = prior, sampler, 1
        self.length = window.given.shape[1]
        self.given = _pad(window.given, True)
        self.numbers = _pad(window.numbers, 0.5)
        self.indices = _pad(prior.flatten(window.tokens).masked_fill(~window.given, 0), 0)
        self.nats = torch.zeros(self.indices.shape, device=self.indices.device)
        passed = window.free.cumsum(1)
        self.remaining = _pad(passed[:, -1:] - passed, 0)  # free positions after each position
        self.free = window.free
        self.sources = None
        if speculate or choose:
            self.sources = _pad(draft_sources(prior.order())[None].to(self.indices.device), self.length)[0]
        self.offsets = torch.arange(max(_MAX_BLOCK, speculate + 1) + 1, device=self.indices.device)
        self._set_drafts(speculate)
        self.state = prior.start(window.tokens, window.given)
        self.unconditional, self.guidance = None, window.guidance
        if window.unconditional is not None:
            self.unconditional = UnconditionalPass(prior, window.unconditional, window.given, self.indices)
            self.forwards = 2
        first = _pad(window.free, False).gather(1, self.state.position[:, None])  # False: nothing to sample in this row
        self.position = self.state.position.where(first[:, 0], self.length)
        self.columns = torch.arange(self.length, device=self.indices.device)
        self.seen = self.position - 1  # position up to which a choice of drafts has counted tokens
        unconditional = self.unconditional.state.log_probs[:, None] if self.unconditional else None
        self._accept(self.state.log_probs[:, None], unconditional, self.position[:, None], count=first[:, 0].long())

    def _set_drafts(self, speculate: int) -> None:
        self.speculate = speculate
        self.ends = block_ends(self.free, speculate)
        self.width = self._constant_width(self.free.cumsum(1))

    def choose_drafts(self) -> None:
        """Sets the number of drafts by the tokens sampled since the last choice."""
        assert self.sources is not None
        new = self.free & (self.seen[:, None] < self.columns) & (self.columns <= self.position[:, None])
        copies, count = count_copies(self.indices, self.sources[:-1], new), new.sum()
        copied, sampled = torch.stack([copies, count]).tolist()
        self.seen = self.position
        speculate = best_drafts(copied / max(sampled, 1), len(self.free), self.free.device.type == "cpu")
        if speculate != self.speculate:
            self._set_drafts(min(speculate, self.length))

    def _constant_width(self, passed: Tensor) -> int | None:
        """The width of the widest block to come; None if given tokens between free ones can make blocks wider than
        `speculate` + 1.
        """
        sizes = self.ends[:, :-1] - torch.arange(self.length, device=self.ends.device)
        widest = int(sizes.masked_fill(passed == 0, 0).max())
        return widest if widest <= self.speculate + 1 else None

    def max_remaining(self) -> int:
        """The number of tokens still to sample in the row with the most."""
        return int(self.remaining.gather(1, self.position[:, None]).max())

    def count_remaining(self) -> int:
        """The number of tokens still to sample in all rows."""
        return int(self.remaining.gather(1, self.position[:, None]).sum())

    def advance(self) -> None:
        """Feeds one block in every row that has tokens to sample, and accepts what is sampled."""
        count = self.ends.gather(1, self.position[:, None]).squeeze(1) - self.position
        count = count.clamp(max=len(self.offsets) - 1)
        width = self.width or int(count.max())
        at = (self.position[:, None] + self.offsets[: width + 1]).clamp(max=self.length)  # of the block and one more
        block = self._block(at[:, :-1])
        log_probs = self.prior.step(self.state, block, count)
        unconditional = self.unconditional.step(block, at[:, :-1], count) if self.unconditional else None
        self.forwards += 2 if self.unconditional else 1
        accepted = self._accept(log_probs, unconditional, at[:, 1:], count, block[:, 1:])
        if self.speculate:
            self.prior.rewind(self.state, self.state.position - (count - accepted))
            if self.unconditional:
                self.unconditional.rewind(count - accepted)
        self.position = self.position + accepted

    def _block(self, at: Tensor) -> Tensor:
        """The tokens [B, n] to feed at positions `at` [B, n]: known and given ones as they are, drafts elsewhere."""
        block = self.indices.gather(1, at)
        if self.sources is not None:
            rest = at[:, 1:]
            drafts = self.indices.gather(1, self.sources[rest])
            block[:, 1:] = torch.where(self.given.gather(1, rest), block[:, 1:], drafts)
        return block

    def _accept(
        self,
        log_probs: Tensor,
        unconditional: Tensor | None,
        at: Tensor,
        count: Tensor,
        drafts: Tensor | None = None,
    ) -> Tensor:
        """Samples tokens at positions `at` [B, n] from log_probs [B, n, K], guided away from `unconditional`, and keeps
        them up to and including the first that differs from `drafts` [B, n - 1], what was fed there. Returns how many
        were kept [B], at most `count`.
        """
        scores = log_probs if unconditional is None else guided(log_probs, unconditional, self.guidance)
        sampled = self.sampler(scores, at, self.numbers.gather(1, at))
        nats = -log_probs.gather(2, sampled[:, :, None]).squeeze(2)
        # given tokens stay; they may be unconditional, K
        tokens = torch.where(self.given.gather(1, at), self.indices.gather(1, at), sampled)
        kept = count
        if self.speculate and drafts is not None:
            kept = torch.minimum(accepted_prefix(drafts, tokens[:, :-1], count) + 1, count)
        target = at.where(self.offsets[: at.shape[1]] < kept[:, None], self.length)
        self.nats.scatter_(1, target, nats.float())
        self.indices.scatter_(1, target, tokens)
        self.indices[:, -1] = 0
        return kept


def _pad(columns: Tensor, value: float) -> Tensor:
    return torch.nn.functional.pad(columns, (0, 1), value=value)
