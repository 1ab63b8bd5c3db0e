"""Random numbers of samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.sample_random import SampleRandom

CPU = torch.device("cpu")
DRAWS: dict[str, Callable[[SampleRandom], Tensor]] = {
    "rand": lambda random: random.rand(3, 5),
    "randn": lambda random: random.randn(17),
    "randint": lambda random: random.randint(11),
    "bernoulli": lambda random: random.bernoulli(0.3, 7, 2, dtype=torch.float32),
    "fork": lambda random: random.fork(2).rand(3).unflatten(0, (2, -1)).movedim(0, 1),
}


def numbers(samples: list[int], seed: int = 3) -> SampleRandom:
    return SampleRandom(seed, np.array(samples), CPU)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_numbers_belong_to_a_sample_whatever_batch_it_is_in(draw: Callable[[SampleRandom], Tensor]) -> None:
    """Three draws after one another: together, split in two, and in another order."""
    whole, first, second, mixed = numbers([0, 1, 2, 5, 8]), numbers([0, 1]), numbers([2, 5, 8]), numbers([8, 1])
    for _ in range(3):
        expected = draw(whole)
        assert torch.equal(torch.cat([draw(first), draw(second)]), expected)
        assert torch.equal(draw(mixed), expected[[4, 1]])


@pytest.mark.parametrize("name", ["rand", "randn", "fork"])
def test_numbers_differ_by_seed_sample_and_draw(name: str) -> None:
    random, others = numbers([0, 1, 2]), numbers([0, 1, 2], seed=4)
    drawn = torch.cat([DRAWS[name](random), DRAWS[name](random), DRAWS[name](others)])
    assert len(drawn.flatten().unique()) == drawn.numel()


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    DRAWS["rand"](numbers([0, 1]))
    assert torch.equal(torch.rand(3), expected)


def test_restarted_numbers_are_those_that_come_next() -> None:
    random = numbers([3, 4])
    random.rand(2)
    again = random.restarted()
    expected = [random.rand(2), random.randn(3)]
    for found, number in zip([again.rand(2), again.randn(3)], expected, strict=True):
        assert torch.equal(found, number)


def test_distributions() -> None:
    """Of one number for each of 10,007 samples: moments within five standard errors, neighbours uncorrelated."""
    random = numbers(list(range(10007)))
    uniform, normal = random.rand().double(), random.randn().double()
    coins, dice = random.bernoulli(0.3, dtype=torch.float64), random.randint(7)
    error = 5 / 10007**0.5
    assert abs(uniform.mean() - 0.5) < error / 12**0.5
    assert abs(uniform.var() - 1 / 12) < error / 180**0.5
    assert abs(normal.mean()) < error
    assert abs(normal.var() - 1) < error * 2**0.5
    assert abs(coins.mean() - 0.3) < error * 0.21**0.5
    assert torch.bincount(dice).tolist() == pytest.approx([10007 / 7] * 7, abs=5 * (10007 * 6 / 49) ** 0.5)
    for drawn in (uniform - 0.5, normal, coins - 0.3):
        assert abs((drawn[1:] * drawn[:-1]).mean()) < error * drawn.var()


def test_numbers_that_cannot_be_repeated_follow_the_global_seed() -> None:
    torch.manual_seed(7)
    first, second = (SampleRandom.unrepeatable(3, CPU).rand(2) for _ in range(2))
    torch.manual_seed(7)
    assert torch.equal(SampleRandom.unrepeatable(3, CPU).rand(2), first)
    assert not torch.equal(first, second)
