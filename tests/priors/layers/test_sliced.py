"""Cutting positions at the ends of slices, against listing them one by one."""

from __future__ import annotations

from tokenreel.priors.layers.sliced import split_by_slice

PER_SLICE = 5
FIRST = [3, 0, 14, 7, 5]
COUNTS = [13, 5, 0, 2, 11]


def test_parts_cover_what_is_wanted_once_and_in_order() -> None:
    found: list[list[tuple[int, int]]] = [[] for _ in FIRST]
    for parts in split_by_slice(FIRST, COUNTS, PER_SLICE):
        for part in parts:
            position = part.slice * PER_SLICE + part.first
            found[part.row] += [(part.column + i, position + i) for i in range(part.size)]
    wanted = zip(FIRST, COUNTS, strict=True)
    assert found == [[(i, first + i) for i in range(count)] for first, count in wanted]


def test_a_part_lies_in_one_slice_and_a_row_has_one_a_round() -> None:
    rounds = list(split_by_slice(FIRST, COUNTS, PER_SLICE))
    assert [len(parts) for parts in rounds] == [4, 2, 2, 1]
    for parts in rounds:
        assert len({part.row for part in parts}) == len(parts)
        assert all(0 <= part.first <= part.last < PER_SLICE and part.size > 0 for part in parts)


def test_nothing_wanted() -> None:
    assert list(split_by_slice([2, 3], [0, 0], PER_SLICE)) == []
