"""Adversarial losses against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tokenreel.decoders.losses.adversarial import (
    adaptive_weight,
    adversarial_loss,
    discriminator_loss,
    gradient_penalty,
    hinge_adversarial_loss,
    hinge_discriminator_loss,
    lazy_r1,
)
from tokenreel.decoders.losses.discriminators import DiscriminatorConfig, ImageDiscriminator


def test_logistic_losses_are_the_formulas_of_the_paper_for_minus_the_score() -> None:
    real, fake = [-1.5, 0.2, 3.0], [0.7, -2.0]
    printed_5 = sum(math.log(1 + math.exp(-d)) for d in real) / 3 + sum(math.log(1 + math.exp(d)) for d in fake) / 2
    printed_6 = sum(math.log(1 + math.exp(-d)) for d in fake) / 2
    assert discriminator_loss(torch.tensor(real), torch.tensor(fake)).item() == pytest.approx(printed_5)
    assert adversarial_loss(torch.tensor(fake)).item() == pytest.approx(printed_6)


def test_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([[-1.5, 0.25], [3.0, 1.0]]), torch.tensor([0.5, -2.0])
    assert hinge_discriminator_loss(real, fake).item() == (2.5 + 0.75 + 0 + 0) / 4 + (1.5 + 0) / 2
    assert hinge_adversarial_loss(fake).item() == 0.75
    assert hinge_discriminator_loss(real.bfloat16(), fake.bfloat16()).dtype == torch.float32


def test_a_discriminator_learns_to_score_true_samples_higher() -> None:
    torch.manual_seed(0)
    discriminator = ImageDiscriminator(DiscriminatorConfig(width=3, multipliers=(1,)), 8, 8)
    optimizer = torch.optim.Adam(discriminator.parameters(), 0.01, (0.0, 0.99))
    real, fake = torch.randn(8, 3, 8, 8) + 0.5, torch.randn(8, 3, 8, 8) - 0.5
    for _ in range(20):
        optimizer.zero_grad()
        discriminator_loss(discriminator(real), discriminator(fake)).backward()
        optimizer.step()
    assert discriminator(real).min() > discriminator(fake).max()


class Linear(nn.Module):
    """score = <weight, frame>, so that the gradient is the weight for every frame."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return (frames * self.weight).flatten(1).sum(1)


def test_r1_of_a_linear_discriminator_is_its_squared_norm() -> None:
    discriminator, real = Linear(torch.arange(42.0).view(3, 2, 7)), torch.randn(5, 3, 2, 7)
    penalty = gradient_penalty(discriminator, real)
    assert penalty.item() == pytest.approx(sum(i * i for i in range(42)))
    penalty.backward()
    assert discriminator.weight.grad is not None
    torch.testing.assert_close(discriminator.weight.grad, 2 * discriminator.weight.detach())
    assert lazy_r1(discriminator, real, 10.0, 16).item() == pytest.approx(5 * 16 * penalty.item())


def test_r1_is_the_mean_over_samples_and_in_fp32_under_autocast() -> None:
    class Squares(nn.Module):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            assert frames.dtype == torch.float32
            return frames.square().flatten(1).sum(1)

    real = torch.randn(5, 3, 2, 7)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = gradient_penalty(Squares(), real)
    assert penalty.item() == pytest.approx((2 * real).square().sum().item() / 5, rel=1e-5)


def test_the_adaptive_weight_is_the_ratio_of_gradients_up_to_its_cap() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 5, bias=False)
    x = torch.randn(7, 3)
    out = layer(x)
    reconstruction, adversarial = 11 * out.square().mean(), out.sum() / 13
    gradient = 11 * 2 * (x @ layer.weight.T).T @ x / 35
    expected = gradient.norm() / (x.sum(0) / 13).expand(5, 3).norm()
    weight = adaptive_weight(reconstruction, adversarial, layer.weight, cap=1e6)
    torch.testing.assert_close(weight, expected.detach())
    assert not weight.requires_grad
    capped = adaptive_weight(reconstruction, adversarial, layer.weight, cap=0.5 * expected.item())
    assert capped.item() == pytest.approx(0.5 * expected.item())
    assert adaptive_weight(reconstruction, 0 * adversarial, layer.weight, cap=17.0).item() == 17, "no gradient at all"
