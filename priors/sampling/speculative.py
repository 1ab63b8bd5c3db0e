"""What the sampler feeds at once: how far each block reaches, and where its drafts come from.

A code often equals the code at the same place in the frame before, so the next few codes are proposed as copies and
scored in one forward; the sampler keeps a proposal where it equals the draw. Exact whatever is proposed: drafts change
the number of forwards, not the codes. Knows no prior, only orders and masks. B rows, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draft_sources(order: Tensor) -> Tensor:
    """int64 [L]: for each position of `order` [L, 5], the earlier one that its draft is copied from, L where none is.

    It is the code at the same place (stream, h, w, q) nearest in time among those generated before: in raster order
    that of the step before, in subscale order maybe that of the step after.
    """
    length = len(order)
    places: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # place -> (step, position) of codes so far
    sources = []
    for position, (stream, step, *place) in enumerate(order.tolist()):
        known = places.setdefault((stream, *place), [])
        sources.append(min(known, key=lambda k: (abs(k[0] - step), k[0]))[1] if known else length)
        known.append((step, position))
    return torch.tensor(sources)


def block_ends(free: Tensor, speculate: int) -> Tensor:
    """int64 [B, L + 1]: where the block that starts at each position ends, that is, the first position not in it.

    A block holds the code at its start, which is known, every given code after it, and `speculate` codes that are not
    given (`free` [B, L]) as proposals; it ends at the free position after those. At the row's last free position,
    which needs no feeding, the block is empty.
    """
    rows, length = free.shape
    passed = free.cumsum(1)  # free positions up to and with each
    total = passed[:, -1:]
    places = torch.where(free, passed - 1, length)  # free positions to the front, in order; the others out of the way
    where = torch.arange(length, device=free.device).expand(rows, length)
    compact = torch.full((rows, length + 1), length, device=free.device).scatter_(1, places, where)
    compact[:, length] = length  # what the others wrote
    wanted = torch.minimum(passed + speculate, (total - 1).clamp(min=0))
    ends = torch.maximum(compact.gather(1, wanted), where)
    return torch.cat([ends, torch.full((rows, 1), length, device=free.device)], 1)


def agreeing(proposed: Tensor, drawn: Tensor, count: Tensor) -> Tensor:
    """int64 [B]: how many proposals, from the front, equal the draws.

    `proposed` and `drawn` [B, n - 1] are of the positions after the first code of a block of `count` [B] codes.
    """
    inside = torch.arange(1, proposed.shape[1] + 1, device=count.device) < count[:, None]
    return ((proposed == drawn) & inside).int().cumprod(1).sum(1)
