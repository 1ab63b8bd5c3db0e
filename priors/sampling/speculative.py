"""Speculative decoding: which tokens the sampler feeds in one forward pass, and which drafts it accepts.

A token often equals the one at the same location in the previous frame, so the next few tokens are drafted as copies
and scored in one forward pass. A draft is accepted where it equals the token that is sampled. Exact whatever is
drafted: drafts change the number of forward passes, not the samples.

A wider forward pass costs more, most of all on a CPU with many rows, so how many drafts pay depends on how many are
accepted. Unless a number is given, it is chosen again and again by the tokens sampled so far (`best_drafts`): by no
clock, so that a run can be repeated.

B rows, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_DRAFTS = 8  # that are chosen by themselves
CHOOSE_EVERY = 32  # forward passes
# What a draft adds to a forward pass, as a fraction of one without drafts: on a CPU as measured (small GPT), per row up
# to ROWS_COST rows; an accelerator is bound by reading the weights.
CPU_COST, ROWS_COST, ACCELERATOR_COST = 0.05, 8, 0.02


def draft_sources(order: Tensor) -> Tensor:
    """int64 [L]: for each position of `order` [L, 5] the earlier one that its draft is copied from, L if there is none.

    It is the position at the same location (stream, h, w, q) that is nearest in time among those generated before: in
    raster order that of the previous step, in subscale order possibly that of the next step.
    """
    length = len(order)
    generated: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # location -> (step, position) so far
    sources = []
    for position, (stream, step, *location) in enumerate(order.tolist()):
        earlier = generated.setdefault((stream, *location), [])
        sources.append(min(earlier, key=lambda e: (abs(e[0] - step), e[0]))[1] if earlier else length)
        earlier.append((step, position))
    return torch.tensor(sources)


def block_ends(free: Tensor, speculate: int) -> Tensor:
    """int64 [B, L + 1]: the end of the block that starts at each position, that is, the first position after it.

    A block is what is fed in one forward pass: the token at its start, which is known, and the positions after it,
    among them at most `speculate` free ones (`free` [B, L]: to be sampled), which are drafted; the others are given. It
    ends at the next free position. At the row's last free position, which need not be fed, the block is empty.
    """
    rows, length = free.shape
    passed = free.cumsum(1)  # free positions up to and including each
    total = passed[:, -1:]
    # The free positions of each row, moved to the front in order; the others write to the last column.
    target = torch.where(free, passed - 1, length)
    positions = torch.arange(length, device=free.device).expand(rows, length)
    compact = torch.full((rows, length + 1), length, device=free.device).scatter_(1, target, positions)
    compact[:, length] = length
    end = torch.minimum(passed + speculate, (total - 1).clamp(min=0))  # as index into `compact`
    ends = torch.maximum(compact.gather(1, end), positions)
    return torch.cat([ends, torch.full((rows, 1), length, device=free.device)], 1)


def accepted_prefix(drafts: Tensor, sampled: Tensor, count: Tensor) -> Tensor:
    """int64 [B]: how many drafts, from the front, equal the sampled tokens.

    `drafts` and `sampled` [B, n - 1] are those of the positions after the first token of a block of `count` [B] tokens.
    """
    inside = torch.arange(1, drafts.shape[1] + 1, device=count.device) < count[:, None]
    return ((drafts == sampled) & inside).int().cumprod(1).sum(1)


def count_copies(indices: Tensor, sources: Tensor, new: Tensor) -> Tensor:
    """int64 []: how many of the tokens `indices` [B, L + 1] at the positions `new` (bool [B, L]) equal their drafts."""
    drafts = indices[:, sources]
    return ((indices[:, :-1] == drafts) & new & (sources < len(sources))).sum()


def best_drafts(acceptance: float, rows: int, on_cpu: bool) -> int:
    """The number of drafts, up to MAX_DRAFTS, with the most tokens for the cost, if each is accepted with the
    probability `acceptance`: with n drafts 1 + a + ... + a^n tokens are expected, for 1 + n times the cost of a draft.
    """
    cost = CPU_COST * min(rows, ROWS_COST) if on_cpu else ACCELERATOR_COST
    gains = [sum(acceptance**k for k in range(n + 1)) / (1 + n * cost) for n in range(MAX_DRAFTS + 1)]
    return gains.index(max(gains))
