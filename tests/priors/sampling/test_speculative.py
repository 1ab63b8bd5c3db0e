"""Where blocks end and where drafts come from, against slow implementations."""

from __future__ import annotations

import pytest
import torch
from toy_priors import ToyConfig, ToyPrior, spec_of, subscale_order

from tokenreel.data.spec import StreamSpec
from tokenreel.priors.base import raster_order
from tokenreel.priors.sampling import loop
from tokenreel.priors.sampling.logits import SamplingConfig
from tokenreel.priors.sampling.speculative import accepted_prefix, best_drafts, block_ends, count_copies, draft_sources
from tokenreel.priors.sampling.video import sample


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


@pytest.mark.parametrize("speculate", [0, 3])
def test_copies_are_counted_among_the_new_tokens(speculate: int):
    generator = torch.Generator().manual_seed(speculate)
    indices = torch.randint(3, (5, 14), generator=generator)
    new = torch.rand(5, 13, generator=generator) < 0.5
    sources = torch.tensor([13] * 4 + list(range(9)))
    expected = sum(
        bool(new[row, at]) and at >= 4 and int(indices[row, at]) == int(indices[row, at - 4])
        for row in range(5)
        for at in range(13)
    )
    assert count_copies(indices, sources, new) == expected


def test_so_many_drafts_are_made_as_pay():
    """None where none is accepted, more where more are, fewer where rows make them dear; all on an accelerator."""
    assert best_drafts(0.0, 1, on_cpu=False) == best_drafts(0.0, 1, on_cpu=True) == 0
    assert best_drafts(1.0, 64, on_cpu=False) == best_drafts(1.0, 1, on_cpu=True) == 8
    for rows in (1, 7, 64):
        chosen = [best_drafts(acceptance / 20, rows, on_cpu=True) for acceptance in range(21)]
        assert chosen == sorted(chosen)
    assert best_drafts(0.3, 16, on_cpu=True) == 0  # 1.3 tokens for 1.4 times the cost
    assert best_drafts(0.3, 16, on_cpu=False) >= 1


def test_samples_stay_the_same_however_drafts_are_chosen(monkeypatch: pytest.MonkeyPatch):
    """With another number every three passes. It is chosen by the fraction of sampled tokens that are copies."""
    spec = spec_of(StreamSpec("video", (5, 2, 3), 3), frames=5)
    prior = ToyPrior(ToyConfig(), spec, raster_order(spec, ["video"]), ("video",))
    tokens = {"video": torch.randint(3, (3, 5, 2, 3, 1), generator=torch.Generator().manual_seed(5))}
    given, seen = prior.given_frames(1), list[tuple[float, int]]()
    plain = sample(prior, tokens, given, SamplingConfig(speculate=0), seed=3)
    numbers = iter([3, 0, 5, 1, 8] * 9)

    def choose(acceptance: float, rows: int, on_cpu: bool) -> int:
        seen.append((acceptance, rows))
        return next(numbers)

    monkeypatch.setattr(loop, "CHOOSE_EVERY", 3)
    monkeypatch.setattr(loop, "best_drafts", choose)
    found = sample(prior, tokens, given, seed=3)
    assert torch.equal(found.tokens["video"], plain.tokens["video"])
    torch.testing.assert_close(found.nats["video"], plain.nats["video"])
    assert len(seen) > 3
    flat = prior.flatten(found.tokens)
    equal = (flat[:, 6:10] == flat[:, :4]).double().mean()  # the first token, and three passes of one token each
    assert seen[0] == (pytest.approx(float(equal)), 3)
