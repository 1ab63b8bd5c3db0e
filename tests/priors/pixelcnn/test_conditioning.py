"""The conditioning stacks, against table 6 taken at its word and by changing what they may and may not look at."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreel.priors.pixelcnn.conditioning import BottomConditioning, TopConditioning
from tokenreel.priors.pixelcnn.config import PixelCNNConfig

CONFIG = PixelCNNConfig(3, 10, 14, 3, 2, 3, 6, 5, 2, attention_every=2)
CODES = (7, 11)
TOP, BOTTOM = (5, 2, 3), (10, 4, 6)


def bottom_conditioning() -> BottomConditioning:
    conditioning = BottomConditioning(CONFIG, CODES, TOP[0])
    conditioning.reset_parameters()
    for name, parameter in conditioning.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # so that slices outside of the clip would be told from zero
    return conditioning.double()


def indices(rows: int) -> tuple[Tensor, Tensor]:
    return torch.randint(CODES[0], (rows, *TOP)), torch.randint(CODES[1], (rows, *BOTTOM))


def by_the_table(stack: BottomConditioning, top: Tensor, bottom: Tensor, index: int) -> Tensor:
    """The whole top level upsampled and one slice chosen; the past, zeros before the clip, in four convolutions."""
    x = stack.embeddings[0](top).movedim(-1, 1)
    x = F.conv_transpose3d(x, stack.double_steps.weight, stack.double_steps.bias, (2, 1, 1), 1)
    x = F.conv_transpose3d(F.relu(x), stack.double_places.weight, stack.double_places.bias, (1, 2, 2), 1)
    upsampled = F.conv3d(F.relu(x), stack.smooth.weight, stack.smooth.bias, padding=1)[:, :, index, None]
    past = F.pad(stack.embeddings[1](bottom).movedim(-1, 1), (0, 0, 0, 0, 4, 0))[:, :, index : index + 4]
    for number, layer in enumerate([*stack.halve, *stack.keep]):
        past = layer(F.relu(past) if number else past)
    return stack.blocks(stack.join(torch.cat([F.relu(upsampled), F.relu(past)], 1))).movedim(1, -1)


def test_bottom_is_table_6_at_its_word() -> None:
    """Each row with a slice of its own, each from the few top steps that reach it, is what the whole clip makes."""
    stack, index = bottom_conditioning(), torch.arange(BOTTOM[0])
    top, bottom = indices(BOTTOM[0])
    found = stack(top, bottom, index)
    assert found.shape == (BOTTOM[0], 1, *BOTTOM[1:], CONFIG.condition_hidden)
    for row in range(BOTTOM[0]):
        expected = by_the_table(stack, top[row, None], bottom[row, None], row)
        torch.testing.assert_close(found[row, None], expected)


@pytest.mark.parametrize("index", [2, 5, 9])
def test_bottom_sees_four_slices_and_four_top_steps(index: int) -> None:
    stack = bottom_conditioning()
    top, bottom = indices(1)
    base = stack(top, bottom, torch.tensor([index]))

    def changes(of_top: bool, step: int) -> bool:
        other = [top.clone(), bottom.clone()]
        other[not of_top][:, step] = (other[not of_top][:, step] + 1) % CODES[not of_top]
        return not torch.equal(stack(*other, torch.tensor([index])), base)

    assert [step for step in range(BOTTOM[0]) if changes(False, step)] == [n for n in range(index - 4, index) if n >= 0]
    first = -(-(index - 4) // 2)  # the first of the four whose filters reach the slice
    assert [step for step in range(TOP[0]) if changes(True, step)] == [n for n in range(first, first + 4) if 0 <= n < 5]


@pytest.mark.parametrize("given", [1, 2])
def test_top_looks_at_every_given_code(given: int) -> None:
    """And the steps to be predicted, for which the given ones are tiled, are not told the same."""
    stack = TopConditioning(replace(CONFIG, condition_hidden=34), CODES, given, steps=3)
    stack.reset_parameters()
    stack.double()
    top, bottom = torch.randint(CODES[0], (1, given, 2, 3)), torch.randint(CODES[1], (1, 2 * given, 4, 6))
    base = stack(top, bottom)
    assert base.shape == (1, 3, 2, 3, 34)
    assert not torch.equal(base[:, 0], base[:, 1])
    for i in range(top.numel() + bottom.numel()):
        other = [top.clone(), bottom.clone()]
        fine = i >= top.numel()
        flat = other[fine].view(-1)
        flat[i - fine * top.numel()] = (flat[i - fine * top.numel()] + 1) % CODES[fine]
        assert not torch.equal(stack(*other), base)
