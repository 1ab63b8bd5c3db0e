"""The random numbers of the sampler."""

from __future__ import annotations

import numpy as np
import pytest

from tokenreel import counter_rng
from tokenreel.counter_rng import uniforms

GOLDEN = [
    [0.9765185170495873, 0.8222899078527058, 0.6643658356839327],
    [0.9954257187050969, 0.3561076159113302, 0.34371766969892004],
]


def test_golden():
    """Frozen: with another hash the same seed would give other samples."""
    found = uniforms(7, np.array([0, 3]), np.array([0, 1, 2**48]))
    np.testing.assert_array_equal(found, GOLDEN)


def test_a_number_depends_on_its_seed_sample_and_token_only():
    samples, indices = np.arange(5), np.arange(7)
    numbers = uniforms(1, samples, indices)
    np.testing.assert_array_equal(uniforms(1, samples[3:4], indices[2:]), numbers[3:4, 2:])
    assert len(np.unique(np.stack([numbers, uniforms(2, samples, indices), uniforms(-1, samples, indices)]))) == 3 * 35


def test_uniform_and_uncorrelated_along_every_part_of_the_counter():
    """Neighbouring seeds, samples and tokens: distribution and correlation within five standard errors."""
    numbers = np.stack([uniforms(seed, np.arange(41), np.arange(997)) for seed in range(5)])
    assert numbers.min() > 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=64, range=(0, 1))[0]
    expected = numbers.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * (2 * 63) ** 0.5
    centred = (numbers - 0.5) * 12**0.5
    for axis in range(3):
        first, second = np.moveaxis(centred, axis, 0)[:-1], np.moveaxis(centred, axis, 0)[1:]
        assert abs((first * second).mean()) < 5 / first.size**0.5


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_the_extreme_hashes_are_strictly_between_0_and_1(bits: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counter_rng, "_mix", lambda counter: np.full_like(counter, bits))
    assert 0 < uniforms(7, np.array([0]), np.array([0])).item() < 1
