"""Splitting positions at the ends of slices, against listing them one by one."""

from __future__ import annotations

from tokenreel.priors.layers.sliced import split_by_slice

SLICE_LENGTH = 5
FIRST = [3, 0, 14, 7, 5]
COUNTS = [13, 5, 0, 2, 11]


def test_spans_cover_the_positions_once_and_in_order() -> None:
    found: list[list[tuple[int, int]]] = [[] for _ in FIRST]
    for spans in split_by_slice(FIRST, COUNTS, SLICE_LENGTH):
        for span in spans:
            position = span.slice * SLICE_LENGTH + span.first
            found[span.row] += [(span.column + i, position + i) for i in range(span.size)]
    assert found == [[(i, first + i) for i in range(count)] for first, count in zip(FIRST, COUNTS, strict=True)]


def test_a_span_is_in_one_slice_and_each_row_has_one_per_round() -> None:
    rounds = list(split_by_slice(FIRST, COUNTS, SLICE_LENGTH))
    assert [len(spans) for spans in rounds] == [4, 2, 2, 1]
    for spans in rounds:
        assert len({span.row for span in spans}) == len(spans)
        assert all(0 <= span.first <= span.last < SLICE_LENGTH and span.size > 0 for span in spans)


def test_no_positions() -> None:
    assert list(split_by_slice([2, 3], [0, 0], SLICE_LENGTH)) == []
