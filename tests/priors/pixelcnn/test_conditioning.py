"""The conditioning networks, against table 6 taken literally and by changing what they may and may not depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreel.priors.pixelcnn.conditioning import BottomConditioning, TopConditioning
from tokenreel.priors.pixelcnn.config import PixelCNNConfig

CONFIG = PixelCNNConfig(3, 10, 14, 3, 2, 3, 6, 5, 2, attention_every=2)
VOCABULARY = (7, 11)
TOP, BOTTOM = (5, 2, 3), (10, 4, 6)


def bottom_conditioning() -> BottomConditioning:
    conditioning = BottomConditioning(CONFIG, VOCABULARY, TOP[0])
    conditioning.reset_parameters()
    for name, parameter in conditioning.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # so that slices outside of the clip would differ from zero
    return conditioning.double()


def random_levels(rows: int) -> tuple[Tensor, Tensor]:
    return torch.randint(VOCABULARY[0], (rows, *TOP)), torch.randint(VOCABULARY[1], (rows, *BOTTOM))


def by_the_table(stack: BottomConditioning, top: Tensor, bottom: Tensor, index: int) -> Tensor:
    """The whole top level upsampled and one slice chosen; the past, zeros before the clip, in four convolutions."""
    x = stack.embeddings[0](top).movedim(-1, 1)
    x = F.conv_transpose3d(x, stack.double_steps.weight, stack.double_steps.bias, (2, 1, 1), 1)
    x = F.conv_transpose3d(F.relu(x), stack.double_size.weight, stack.double_size.bias, (1, 2, 2), 1)
    upsampled = F.conv3d(F.relu(x), stack.smooth.weight, stack.smooth.bias, padding=1)[:, :, index, None]
    past = F.pad(stack.embeddings[1](bottom).movedim(-1, 1), (0, 0, 0, 0, 4, 0))[:, :, index : index + 4]
    for number, layer in enumerate([*stack.halve, *stack.keep]):
        past = layer(F.relu(past) if number else past)
    return stack.blocks(stack.join(torch.cat([F.relu(upsampled), F.relu(past)], 1))).movedim(1, -1)


def test_bottom_is_table_6_literally() -> None:
    """Rows with different slices, each computed from the few top steps that it depends on, equal the whole clip."""
    stack, index = bottom_conditioning(), torch.arange(BOTTOM[0])
    top, bottom = random_levels(BOTTOM[0])
    found = stack(top, bottom, index)
    assert found.shape == (BOTTOM[0], 1, *BOTTOM[1:], CONFIG.condition_hidden)
    for row in range(BOTTOM[0]):
        expected = by_the_table(stack, top[row, None], bottom[row, None], row)
        torch.testing.assert_close(found[row, None], expected)


@pytest.mark.parametrize("index", [2, 5, 9])
def test_bottom_depends_on_four_slices_and_four_top_steps(index: int) -> None:
    stack = bottom_conditioning()
    top, bottom = random_levels(1)
    base = stack(top, bottom, torch.tensor([index]))

    def changes(of_top: bool, step: int) -> bool:
        other = [top.clone(), bottom.clone()]
        other[not of_top][:, step] = (other[not of_top][:, step] + 1) % VOCABULARY[not of_top]
        return not torch.equal(stack(*other, torch.tensor([index])), base)

    assert [step for step in range(BOTTOM[0]) if changes(False, step)] == [n for n in range(index - 4, index) if n >= 0]
    first = -(-(index - 4) // 2)  # the first of the four
    assert [step for step in range(TOP[0]) if changes(True, step)] == [n for n in range(first, first + 4) if 0 <= n < 5]


@pytest.mark.parametrize("given", [1, 2])
def test_top_depends_on_every_given_token(given: int) -> None:
    """And the steps to be predicted, over which the given ones are tiled, differ from one another."""
    stack = TopConditioning(replace(CONFIG, condition_hidden=34), VOCABULARY, given, steps=3)
    stack.reset_parameters()
    stack.double()
    top, bottom = torch.randint(VOCABULARY[0], (1, given, 2, 3)), torch.randint(VOCABULARY[1], (1, 2 * given, 4, 6))
    base = stack(top, bottom)
    assert base.shape == (1, 3, 2, 3, 34)
    assert not torch.equal(base[:, 0], base[:, 1])
    for i in range(top.numel() + bottom.numel()):
        other = [top.clone(), bottom.clone()]
        fine = i >= top.numel()
        flat = other[fine].view(-1)
        flat[i - fine * top.numel()] = (flat[i - fine * top.numel()] + 1) % VOCABULARY[fine]
        assert not torch.equal(stack(*other), base)
