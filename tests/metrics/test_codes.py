"""Code usage over a data set, with values known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tokenreel.metrics.codes import CodeCounter, codebook_use


def test_even_use_has_the_perplexity_of_the_codebook():
    use = codebook_use(np.full(13, 7))
    assert (use.used, use.alarm) == (1.0, None)
    assert use.perplexity == pytest.approx(13)
    assert use.entropy == pytest.approx(math.log2(13))


def test_unused_codes_do_not_count():
    use = codebook_use(np.array([4, 4, 0, 0, 0, 0, 0]))
    assert use.used == pytest.approx(2 / 7)
    assert use.perplexity == pytest.approx(2)


def test_codes_that_hold_80_percent_are_the_fewest_that_do():
    generator = np.random.default_rng(5)
    for size in (1, 2, 13, 101):
        counts = generator.integers(0, 7, size) ** 3 + (np.arange(size) == 0)
        enough = [n for n in range(1, size + 1) if 5 * sum(sorted(counts.tolist())[-n:]) >= 4 * counts.sum()]
        assert codebook_use(counts).holding_80_percent == min(enough)


def test_80_percent_to_the_code_is_80_percent():
    """Eight of ten equal codes hold it exactly; their frequencies add up to a little less in floating point."""
    assert sum([0.1] * 8) < 0.8
    assert codebook_use(np.ones(10, dtype=np.int64)).holding_80_percent == 8
    assert codebook_use(np.array([0, 1, 4])).holding_80_percent == 1


def test_the_alarm_tells_collapse_from_health():
    """And no more: what helps depends on the quantizer."""
    alarm = codebook_use(np.array([4, 4, 0, 0, 0, 0, 0])).alarm
    assert alarm == "only 29% of 7 codes are in use, perplexity 2.0"
    one_does_all = np.ones(101, dtype=np.int64)
    one_does_all[5] = 10**6
    assert "perplexity 1.0" in str(codebook_use(one_does_all).alarm)


def test_collapsed_is_less_than_a_quarter_of_the_bits():
    """Of 16 codes, 4 bits: two that are even are one bit, just enough."""
    assert not codebook_use(np.array([7, 7] + [0] * 14)).collapsed
    assert codebook_use(np.array([7, 6] + [0] * 14)).collapsed
    assert not codebook_use(np.array([5])).collapsed, "a codebook of one code has no bits to lose"


def test_counts_add_up_over_batches_and_books():
    generator = np.random.default_rng(3)
    codes = generator.integers(0, 11, (5, 2, 3, 2), dtype=np.uint8)
    counter = CodeCounter(codes=11, codebooks=2)
    counter.update(codes[:2])
    counter.update(codes[2:])
    for book in range(2):
        expected = [(codes[..., book] == code).sum() for code in range(11)]
        assert counter.counts[book].tolist() == expected
        assert counter.use()[book] == codebook_use(np.array(expected))


def test_nothing_counted_is_refused():
    with pytest.raises(ValueError, match="count some codes"):
        CodeCounter(codes=3, codebooks=1).use()
    with pytest.raises(ValueError, match="codebooks"):
        CodeCounter(codes=3, codebooks=2).update(np.zeros((5, 3), np.uint8))
