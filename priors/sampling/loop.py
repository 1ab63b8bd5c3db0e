"""Draws the codes of one window of a prior that nobody gave, several at once where drafts or given codes allow it.

The loop that all sampling runs through. It keeps one invariant: in each row, everything up to and with the code at
`position` is settled, and the prior's cache holds everything before it. A block feeds the settled code, the given codes
after it and the drafts; the draws that come out settle at least one more. Knows no frames, files or schedules.

B rows, L positions of the order, n codes in a block, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.errors import CheckpointError
from tokenreel.priors.base import Prior, Tokens
from tokenreel.priors.sampling.guidance import NullPass, guided
from tokenreel.priors.sampling.logits import Choice
from tokenreel.priors.sampling.speculative import agreeing, block_ends, draft_sources

_LONGEST_BLOCK = 128  # codes; more given ones in a row are fed in parts, so that [B, n, K] log-probs stay small


@dataclass(frozen=True)
class Window:
    """What is to be drawn: all on the prior's device."""

    tokens: Tokens  # every stream [B, t, h, w, q]; codes that are not given are never looked at
    given: Tensor  # bool [B, L]
    drawn: Tensor  # bool [B, L], the positions to draw: not given, and none is left out before the row's last one
    numbers: Tensor  # float64 [B, L], uniform in (0, 1)
    null: Tokens | None = None  # `tokens` with null codes in place of controls, for guidance by a second pass
    guidance: float = 1.0


@dataclass(frozen=True)
class Drawn:
    """Codes in generation order and what they cost."""

    indices: Tensor  # int64 [B, L], 0 where neither given nor drawn
    nats: Tensor  # float32 [B, L], minus log-probability under the prior itself; 0 where not drawn
    forwards: int  # passes through the prior


def draw_window(prior: Prior, window: Window, choice: Choice, speculate: int) -> Drawn:
    """Draws every position of `window.drawn`. Raises CheckpointError where the probabilities are not finite."""
    if not window.drawn.any():
        indices = prior.flatten(window.tokens).masked_fill(~window.given, 0)
        return Drawn(indices, torch.zeros(indices.shape, device=indices.device), 0)
    loop = _Loop(prior, window, choice, speculate)
    while left := loop.left():
        for _ in range(-(-left // (speculate + 1))):  # no row can be done sooner: asking costs a wait for the device
            loop.advance()
    nats = loop.nats[:, :-1].masked_fill(~window.drawn, 0)
    if not nats.isfinite().all():
        raise CheckpointError(
            "the prior's probabilities are not finite: its weights hold NaN; take an older checkpoint"
        )
    return Drawn(loop.indices[:, :-1], nats, loop.forwards)


class _Loop:
    """The arrays have one column more than the order, L: what must not be kept is written there, and it reads as 0."""

    def __init__(self, prior: Prior, window: Window, choice: Choice, speculate: int) -> None:
        self.prior, self.choice, self.speculate, self.forwards = prior, choice, speculate, 1
        self.length = window.given.shape[1]
        self.given = _pad(window.given, True)
        self.numbers = _pad(window.numbers, 0.5)
        self.indices = _pad(prior.flatten(window.tokens).masked_fill(~window.given, 0), 0)
        self.nats = torch.zeros(self.indices.shape, device=self.indices.device)
        passed = window.drawn.cumsum(1)
        self.still = _pad(passed[:, -1:] - passed, 0)  # codes left to draw after each position
        self.ends = block_ends(window.drawn, speculate)
        self.sources = (
            _pad(draft_sources(prior.order())[None].to(self.indices.device), self.length)[0] if speculate else None
        )
        self.lines = torch.arange(max(_LONGEST_BLOCK, speculate + 1) + 1, device=self.indices.device)
        self.width = self._constant_width(passed)
        self.state = prior.start(window.tokens, window.given)
        self.null, self.guidance = None, window.guidance
        if window.null is not None:
            self.null, self.forwards = NullPass(prior, window.null, window.given, self.indices), 2
        first = _pad(window.drawn, False).gather(1, self.state.position[:, None])  # False: this row has none to draw
        self.position = self.state.position.where(first[:, 0], self.length)
        null = self.null.state.log_probs[:, None] if self.null else None
        self._settle(self.state.log_probs[:, None], null, self.position[:, None], count=first[:, 0].long())

    def _constant_width(self, passed: Tensor) -> int | None:
        """The width that fits all blocks to come, or None where given codes among the drawn ones make them differ."""
        sizes = self.ends[:, :-1] - torch.arange(self.length, device=self.ends.device)
        widest = int(sizes.masked_fill(passed == 0, 0).max())
        return widest if widest <= self.speculate + 1 else None

    def left(self) -> int:
        """How many codes the row that has the most to go still needs."""
        return int(self.still.gather(1, self.position[:, None]).max())

    def advance(self) -> None:
        """Feeds one block in every row that has codes left, and settles what comes out."""
        count = self.ends.gather(1, self.position[:, None]).squeeze(1) - self.position
        count = count.clamp(max=len(self.lines) - 1)
        width = self.width or int(count.max())
        at = (self.position[:, None] + self.lines[: width + 1]).clamp(max=self.length)  # of the block and one more
        block = self._proposals(at[:, :-1])
        log_probs = self.prior.step(self.state, block, count)
        null = self.null.step(block, at[:, :-1], count) if self.null else None
        self.forwards += 2 if self.null else 1
        moved = self._settle(log_probs, null, at[:, 1:], count, block[:, 1:])
        if self.speculate:
            self.prior.rewind(self.state, self.state.position - (count - moved))
            if self.null:
                self.null.rewind(count - moved)
        self.position = self.position + moved

    def _proposals(self, at: Tensor) -> Tensor:
        """Codes [B, n] to feed: the settled one, then given ones as they are and copies for the others."""
        block = self.indices.gather(1, at)
        if self.sources is not None:
            rest = at[:, 1:]
            copies = self.indices.gather(1, self.sources[rest])
            block[:, 1:] = torch.where(self.given.gather(1, rest), block[:, 1:], copies)
        return block

    def _settle(
        self, log_probs: Tensor, null: Tensor | None, at: Tensor, count: Tensor, proposed: Tensor | None = None
    ) -> Tensor:
        """Chooses codes at positions `at` [B, n] out of log_probs [B, n, K], guided away from `null` ones, and keeps
        them up to and with the first that differs from what was `proposed` there [B, n - 1]. Returns how many were kept
        [B], at most `count`.
        """
        choices = log_probs if null is None else guided(log_probs, null, self.guidance)
        chosen = self.choice(choices, at, self.numbers.gather(1, at))
        nats = -log_probs.gather(2, chosen[:, :, None]).squeeze(2)
        drawn = torch.where(self.given.gather(1, at), self.indices.gather(1, at), chosen)  # given: maybe a null code, K
        kept = count
        if self.speculate and proposed is not None:
            kept = torch.minimum(agreeing(proposed, drawn[:, :-1], count) + 1, count)
        target = at.where(self.lines[: at.shape[1]] < kept[:, None], self.length)
        self.nats.scatter_(1, target, nats.float())
        self.indices.scatter_(1, target, drawn)
        self.indices[:, -1] = 0
        return kept


def _pad(columns: Tensor, value: float) -> Tensor:
    return torch.nn.functional.pad(columns, (0, 1), value=value)
