"""LFQ's codes are the signs of its channels; its entropies are those of the softmax over all codes."""

from __future__ import annotations

import math

import pytest
import torch

from tokenreel.errors import ConfigError
from tokenreel.tokenizers.quantizers.lfq import LFQ, LFQConfig


def bare_lfq(config: LFQConfig) -> LFQ:
    """Without its projections, so that channels are what is replaced by signs."""
    lfq = LFQ(config, config.bits * config.codebooks).eval()
    for layer in (lfq.project_in, lfq.project_out):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return lfq


@pytest.mark.parametrize("codebooks", [1, 2])
def test_every_code_is_a_corner_and_is_encoded_again(codebooks):
    lfq = bare_lfq(LFQConfig(bits=5, codebooks=codebooks))
    indices = torch.arange(32)[:, None].repeat(1, codebooks)
    corners = lfq.decode_rows(indices)
    assert set(corners.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(lfq.encode_rows(0.3 * corners), indices)


def test_a_code_is_the_nearest_corner():
    lfq, rows = bare_lfq(LFQConfig(bits=3)), torch.randn(29, 3)
    corners = lfq.decode_rows(torch.arange(8)[:, None])
    assert torch.equal(lfq.encode_rows(rows)[:, 0], torch.cdist(rows, corners).argmin(1))


def test_losses_against_brute_force():
    """Softmax over all 2^bits corners, which the implementation does not compute."""
    config = LFQConfig(bits=5, codebooks=2, entropy=0.3, diversity=0.7, temperature=2.0, commitment=0.5)
    lfq, rows = bare_lfq(config), torch.randn(13, 10)

    def entropy(p: torch.Tensor) -> torch.Tensor:
        return -(p * p.log()).sum(-1)

    corners = lfq.decode_rows(torch.arange(32)[:, None].repeat(1, 2))[:, :5]
    expected = []
    for part in rows.split(5, dim=1):
        choice = torch.softmax(-((part[:, None] - corners) ** 2).sum(-1) / 2.0, dim=1)
        expected.append(entropy(choice).mean() - 0.7 * entropy(choice.mean(0)))
    _, _, losses = lfq.train_rows(rows)
    torch.testing.assert_close(losses["entropy"], 0.3 * torch.stack(expected).mean())
    torch.testing.assert_close(losses["commitment"], 0.5 * ((rows - rows.sign()) ** 2).mean())


def test_entropy_is_lowest_for_certain_choices_that_use_all_codes():
    lfq = bare_lfq(LFQConfig(bits=5, entropy=1.0))
    corners = lfq.decode_rows(torch.arange(32)[:, None])
    _, _, losses = lfq.train_rows(9.0 * corners)
    assert losses["entropy"].item() == pytest.approx(-5 * math.log(2), abs=1e-5)


@pytest.mark.parametrize("fields", [{"bits": 0}, {"bits": 21}, {"temperature": 0.0}, {"codebooks": 0}])
def test_invalid_fields_are_rejected(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        LFQConfig(**fields)
