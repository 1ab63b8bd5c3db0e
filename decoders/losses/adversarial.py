"""Losses of adversarial training: logistic ones, the R1 penalty, and the adaptive weight. They know no tokenizer.

A discriminator rates the truth higher, as in the public code of CCVS. The paper prints its equations 5 and 6 for a
score that is lower for the truth: they are these with -D for D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Equation 5, the mean over scores [N] of the true and [M] of the decoded."""
    return functional.softplus(-real.float()).mean() + functional.softplus(fake.float()).mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    """Equation 6, the mean over scores [N] of the decoded: the "non-saturating" loss of the tokenizer."""
    return functional.softplus(-fake.float()).mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Mean over samples of ||d score / d sample||^2 at the truth (Mescheder et al. 2018, section 4.1).

    In fp32 whatever the precision around: its gradient is a second derivative.
    """
    with torch.autocast(real.device.type, enabled=False):
        real = real.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
        return gradient.square().flatten(1).sum(1).mean()


def lazy_r1(discriminator: nn.Module, real: Tensor, weight: float, every: int) -> Tensor:
    """weight / 2 * R1, to be added in one of `every` steps, and therefore `every` times as large.

    StyleGAN2 (section 4.1) also shrinks Adam's rate and moments, as its penalty is a step of its own on top of the
    usual ones. Here it joins the loss of a usual step: there are no more steps than without, and nothing is shrunk.
    """
    return weight / 2 * every * r1_penalty(discriminator, real)


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, cap: float) -> Tensor:
    """||d reconstruction|| / ||d adversarial||, both with respect to the decoder's last layer, at most `cap`
    (VQGAN, Esser et al. 2021, equation 7): the adversarial loss pulls as hard as the others do. No gradient.
    """
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / norms[1].clamp(min=1e-12)).clamp(max=cap).detach()
