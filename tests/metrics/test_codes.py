"""Codebook usage over a data set, with known values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tokenreel.metrics.codes import CodebookUsage, CodeCounter


def test_even_usage_has_the_perplexity_of_the_codebook():
    usage = CodebookUsage.from_counts(np.full(13, 7))
    assert (usage.used, usage.alarm) == (1.0, None)
    assert usage.perplexity == pytest.approx(13)
    assert usage.entropy == pytest.approx(math.log2(13))


def test_unused_codes_do_not_count():
    usage = CodebookUsage.from_counts(np.array([4, 4, 0, 0, 0, 0, 0]))
    assert usage.used == pytest.approx(2 / 7)
    assert usage.perplexity == pytest.approx(2)


def test_80_percent_is_held_by_the_fewest_codes():
    generator = np.random.default_rng(5)
    for size in (1, 2, 13, 101):
        counts = generator.integers(0, 7, size) ** 3 + (np.arange(size) == 0)
        enough = [n for n in range(1, size + 1) if 5 * sum(sorted(counts.tolist())[-n:]) >= 4 * counts.sum()]
        assert CodebookUsage.from_counts(counts).holding_80_percent == min(enough)


def test_80_percent_is_exact():
    """Eight of ten equally frequent codes are exactly 80 %; the sum of their frequencies is less, in floating point."""
    assert np.cumsum([0.1] * 8)[-1] < 0.8
    assert CodebookUsage.from_counts(np.ones(10, dtype=np.int64)).holding_80_percent == 8
    assert CodebookUsage.from_counts(np.array([0, 1, 4])).holding_80_percent == 1


def test_the_alarm_reports_few_codes_in_use():
    """Without advice, which depends on the quantizer."""
    alarm = CodebookUsage.from_counts(np.array([4, 4, 0, 0, 0, 0, 0])).alarm
    assert alarm == "only 29% of 7 codes are in use, perplexity 2.0 (8 tokens counted)"
    one_dominates = np.ones(101, dtype=np.int64)
    one_dominates[5] = 10**6
    assert "perplexity 1.0" in str(CodebookUsage.from_counts(one_dominates).alarm)


def test_collapsed_is_less_than_a_quarter_of_the_bits():
    """Of 16 codes, 4 bits: two even ones have one bit, the limit."""
    assert not CodebookUsage.from_counts(np.array([7, 7] + [0] * 14)).collapsed
    assert CodebookUsage.from_counts(np.array([7, 6] + [0] * 14)).collapsed
    assert not CodebookUsage.from_counts(np.array([5])).collapsed, "a codebook of one code has no bits"


def test_counts_add_up_over_batches_and_codebooks():
    generator = np.random.default_rng(3)
    tokens = generator.integers(0, 11, (5, 2, 3, 2), dtype=np.uint8)
    counter = CodeCounter(codebook_size=11, codebooks=2)
    counter.update(tokens[:2])
    counter.update(tokens[2:])
    for codebook in range(2):
        expected = [(tokens[..., codebook] == code).sum() for code in range(11)]
        assert counter.counts[codebook].tolist() == expected
        assert counter.usage()[codebook] == CodebookUsage.from_counts(np.array(expected))


def test_no_tokens_are_rejected():
    with pytest.raises(ValueError, match="count tokens"):
        CodeCounter(codebook_size=3, codebooks=1).usage()
    with pytest.raises(ValueError, match="codebooks"):
        CodeCounter(codebook_size=3, codebooks=2).update(np.zeros((5, 3), np.uint8))
