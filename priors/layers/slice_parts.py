"""Positions to predict, cut at the ends of slices: a row can be in one slice at a time. Plain numbers, no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


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
