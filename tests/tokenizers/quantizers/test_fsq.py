"""FSQ's codes are a bijection with its grid of rounded values."""

from __future__ import annotations

import pytest
import torch

from tokenreel.errors import ConfigError
from tokenreel.tokenizers.quantizers.fsq import FSQ, FSQConfig

LEVELS = (8, 5, 3, 2)


def bare_fsq(levels: tuple[int, ...], codebooks: int = 1) -> FSQ:
    """Without its projections, so that channels are what is rounded."""
    channels = len(levels) * codebooks
    fsq = FSQ(FSQConfig(levels, codebooks), channels).eval()
    for layer in (fsq.project_in, fsq.project_out):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return fsq


@pytest.mark.parametrize("codebooks", [1, 2])
def test_every_code_is_a_different_point_and_is_encoded_again(codebooks):
    """All K codes; a channel x is bounded by tanh, so the point v results from about atanh(v / half)."""
    fsq = bare_fsq(LEVELS, codebooks)
    indices = torch.arange(fsq.codebook_size)[:, None].repeat(1, codebooks)
    values = fsq.decode_rows(indices)
    assert len(torch.unique(values, dim=0)) == fsq.codebook_size == 8 * 5 * 3 * 2
    levels = torch.tensor(LEVELS * codebooks)
    half, offset = (levels - 1) * 1.001 / 2, 0.5 * (levels % 2 == 0)
    inside = ((values * (levels // 2) + offset) / half).clamp(-0.999, 0.999)
    latents = torch.atanh(inside) - torch.atanh(offset / half)
    assert torch.equal(fsq.encode_rows(latents), indices)


def test_each_channel_is_rounded_to_its_nearest_level():
    fsq, latents = bare_fsq((5,)), torch.linspace(-4, 4, 101)[:, None]
    bounded, grid = torch.tanh(latents) * 2 * 1.001, torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0]])
    assert torch.equal(fsq.encode_rows(latents)[:, 0], (bounded - grid).abs().argmin(1))


def test_gradients_pass_the_rounding():
    fsq, rows = bare_fsq((5, 3)), torch.randn(7, 2, requires_grad=True)
    straight, _, losses = fsq.train_rows(rows)
    straight.sum().backward()
    half = torch.tensor([2.0, 1.0])
    expected = (1 - torch.tanh(rows) ** 2).detach() * half * 1.001 / half  # of tanh, not of the steps
    torch.testing.assert_close(rows.grad, expected)
    assert losses == {}


@pytest.mark.parametrize("levels", [(), (5, 1)])
def test_invalid_levels_are_rejected(levels):
    with pytest.raises(ConfigError, match="levels"):
        FSQConfig(levels)
