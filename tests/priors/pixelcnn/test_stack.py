"""What each location of the stacks depends on, by gradient, with and without attention; and the cached stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.priors.layers.transformer import Attention
from tokenreel.priors.pixelcnn.cached import CachedStack
from tokenreel.priors.pixelcnn.config import PixelCNNConfig
from tokenreel.priors.pixelcnn.masked import Shape
from tokenreel.priors.pixelcnn.stack import Stack
from tokenreel.sample_random import SampleRandom

SHAPES = [(3, 5, 7), (1, 7, 11)]  # of the top prior and of the bottom prior, larger than a small filter reaches


def stack_of(shape: Shape, kernel: int, dropout: float = 0.0, layers: int = 3) -> Stack:
    """With random weights, in float64: an effect through many layers is not rounded away."""
    config = PixelCNNConfig(3, 10, 14, layers, 2, kernel, 4, 1, 1, attention_every=2, dropout=dropout)
    stack = Stack(config, shape).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return stack


def inputs(shape: Shape, rows: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    vectors, condition = (torch.randn(rows, *shape, n, generator=generator, dtype=torch.double) for n in (3, 4))
    return vectors, condition


def dependencies(stack: Stack) -> Tensor:
    """bool [P, P]: whether the output at the first location depends on the vector at the second, by gradient."""
    vectors, condition = inputs(stack.shape)
    vectors.requires_grad_()
    directions = torch.linspace(-1, 1, 10, dtype=torch.double)
    outputs = (stack.eval()(vectors, condition) @ directions).flatten()
    gradients = [torch.autograd.grad(output, vectors, retain_graph=True)[0] for output in outputs]
    return torch.stack(gradients).abs().sum(-1).flatten(1) > 0


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_location_depends_on_all_before_it_and_no_other(shape: Shape, kernel: int) -> None:
    locations = int(np.prod(shape))
    assert torch.equal(
        dependencies(stack_of(shape, kernel)), torch.ones(locations, locations, dtype=torch.bool).tril(-1)
    )


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_without_attention_the_planes_of_the_filters_are_covered(shape: Shape, kernel: int) -> None:
    """Stacks of 2D filters have no blind spot; those of planes (y, t) and (x, t) have the one described in `Stack`."""
    stack = stack_of(shape, kernel, layers=11)
    for module in stack.modules():
        if isinstance(module, Attention):
            torch.nn.init.zeros_(module.out.weight)
    found = dependencies(stack).numpy()
    before = np.tri(len(found), k=-1, dtype=bool)
    if shape[0] == 1:
        assert np.array_equal(found, before)
    else:
        assert np.array_equal(found, reached(shape, kernel, layers=11))
        t, y, x = np.indices(shape).reshape(3, -1)
        same = t[:, None] == t
        assert np.array_equal(
            found[same], (before & (x - x[:, None] <= kernel // 2) | before & (y[:, None] == y))[same]
        )


def reached(shape: Shape, kernel: int, layers: int) -> np.ndarray:
    """bool [P, P]: the locations that the filters of the paper's planes reach from each, followed layer by layer."""
    half = kernel // 2
    dt, dy, dx = (axis[:, None] - axis for axis in np.indices(shape).reshape(3, -1))  # from the second to the first
    past, near_y, near_x = (dt > 0) & (dt <= half), abs(dy) <= half, abs(dx) <= half
    above = (dt == 0) & (dy > 0) & (dy <= half) & near_x
    left = (dt == 0) & (dy == 0) & (dx > 0) & (dx <= half)
    v = above | (past & near_y & near_x)
    h = v | left
    itself = (dt == 0) & (dy == 0) & (dx == 0)
    in_column = (dx == 0) & ((past & near_y) | ((dt == 0) & (dy > 0) & (dy <= half)) | itself)
    in_row = (dy == 0) & ((past & near_x) | ((dt == 0) & (dx > 0) & (dx <= half)) | itself)
    for _ in range(layers):
        v = in_column @ v
        h = (in_row @ h) | v
    return h


def test_dropout_depends_on_its_random_numbers_only() -> None:
    stack = stack_of(SHAPES[0], 3, dropout=0.5)
    vectors, condition = inputs(stack.shape)

    def run(seed: int) -> Tensor:
        torch.rand(seed)  # advances torch's global generator
        return stack(vectors, condition, SampleRandom(seed, np.arange(len(vectors)), torch.device("cpu")))

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(5))
    stack.eval()
    assert torch.equal(run(3), run(5))


@pytest.mark.parametrize("shape", SHAPES)
def test_scanlines_and_locations_are_computed_once(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Location by location as in sampling: in each layer every scanline and every location is computed once."""
    stack = stack_of(shape, 3).eval()
    vectors, condition = (x.flatten(1, 3) for x in inputs(shape, rows=2))
    cached, rows = CachedStack(stack, 2), torch.arange(2)
    scanned, computed = [], []
    for layer in cached.layers:
        monkeypatch.setattr(layer, "begin", counting(layer.begin, scanned, lambda v, new, _: new.at.numel()))
        monkeypatch.setattr(layer, "extend", counting(layer.extend, computed, lambda x, _, new: new.at.numel()))
    cached.begin_volume(rows, condition)
    with torch.no_grad():
        for at in range(vectors.shape[1]):
            y, x = divmod(at, shape[2])
            scanlines = torch.tensor([[0, y], [1, y]] if x == 0 else [])
            cached.extend(rows, torch.full((2, 1), at), vectors[:, max(at - 1, 0), None], scanlines)
        expected = stack(*inputs(shape, rows=2))
    torch.testing.assert_close(cached.hidden, expected.flatten(1, 3), atol=1e-5, rtol=0)  # attention is float32
    assert sum(scanned) == sum(computed) == 2 * vectors.shape[1] * len(stack.layers)


def counting(function: Callable[..., Any], counts: list[int], count: Callable[..., int]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        counts.append(count(*arguments))
        return function(*arguments)

    return counted
