"""Where blocks end and where drafts come from, against slow implementations."""

from __future__ import annotations

import pytest
import torch
from toy_priors import spec_of, subscale_order

from tokenreel.data.spec import StreamSpec
from tokenreel.priors.base import raster_order
from tokenreel.priors.sampling.speculative import accepted_prefix, block_ends, draft_sources


def end_of_block(free: list[bool], start: int, speculate: int) -> int:
    """Advances from `start` to the first free position after `speculate` others, or to the last free one."""
    last = max(i for i, f in enumerate(free) if f)
    passed, position = 0, start
    while position < last:
        position += 1
        if free[position]:
            if passed == speculate or position == last:
                return position
            passed += 1
    return position


@pytest.mark.parametrize("speculate", [0, 1, 3, 50])
def test_block_ends(speculate: int):
    free = torch.rand(11, 23, generator=torch.Generator().manual_seed(0)) < 0.5
    free[0], free[1] = True, False
    free[1, 5] = True
    ends = block_ends(free, speculate)
    for row in range(11):
        expected = [end_of_block(free[row].tolist(), start, speculate) for start in range(23)]
        assert ends[row].tolist() == [*expected, 23]


def test_a_row_without_free_positions_stays_at_the_end():
    assert block_ends(torch.zeros(1, 5, dtype=torch.bool), 2)[0, 5] == 5


def test_raster_drafts_copy_the_previous_step():
    spec = spec_of(StreamSpec("video", (3, 2, 5), 7, codebooks=2), frames=3)
    sources = draft_sources(raster_order(spec, ["video"]))
    assert sources.tolist() == [60] * 20 + list(range(40))


def test_subscale_drafts_copy_the_nearest_generated_step():
    """Steps 0 and 2 come first; then step 1 copies 0 (the earlier of two equally near), and step 3 copies 2."""
    spec = spec_of(StreamSpec("video", (4, 1, 2), 7), frames=4)
    order = subscale_order(spec, "video", (2, 1, 1))
    sources = draft_sources(order)
    steps = {int(t): order[sources[i], 1].item() for i, t in enumerate(order[:, 1]) if sources[i] < 8}
    assert steps == {2: 0, 1: 0, 3: 2}
    assert torch.equal(order[sources[2:], 2:], order[2:, 2:])


def test_the_accepted_prefix_ends_at_the_first_difference_and_at_the_count():
    drafts = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
    sampled = torch.tensor([[1, 2, 3], [1, 0, 3], [0, 2, 3], [1, 2, 3]])
    assert accepted_prefix(drafts, sampled, torch.tensor([4, 4, 4, 2])).tolist() == [3, 1, 0, 1]
