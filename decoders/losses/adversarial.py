"""Losses of adversarial training: logistic and hinge losses, gradient penalties and the adaptive weight.

A discriminator scores true samples higher, as in the public code of CCVS. The paper prints its equations 5 and 6 for a
score that is lower for true samples: here D is their -D.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.replicas import mean_over_processes


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Equation 5: the mean over scores [N] of true samples and [M] of decoded samples."""
    return functional.softplus(-real.float()).mean() + functional.softplus(fake.float()).mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    """Equation 6: the mean over scores [N] of decoded samples, the non-saturating loss of the tokenizer."""
    return functional.softplus(-fake.float()).mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Means of max(0, 1 - score) over scores of true samples and of max(0, 1 + score) over those of generated ones, of
    any shape (Lim and Ye 2017, https://arxiv.org/abs/1705.02894; DVD-GAN, section 2.2).
    """
    return functional.relu(1 - real.float()).mean() + functional.relu(1 + fake.float()).mean()


def hinge_adversarial_loss(fake: Tensor) -> Tensor:
    """Minus the mean of the scores of generated samples: the generator's side of the hinge loss."""
    return -fake.float().mean()


def gradient_penalty(
    discriminator: nn.Module, inputs: Tensor, weights: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Mean over samples [N, ...] of weight ||d score / d sample||^2, the sum over all of a sample. `weights` makes the
    weights [N] of the scores [N]; the penalty's gradient is theirs too (as in the published code of Roth et al. 2017).
    None: all are 1.

    In fp32 whatever the autocast precision: its gradient is a second derivative.
    """
    with torch.autocast(inputs.device.type, enabled=False):
        inputs = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32)).requires_grad_()
        scores = discriminator(inputs)
        (gradient,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
        norms = gradient.square().flatten(1).sum(1)
        return (norms if weights is None else weights(scores) * norms).mean()


def lazy_r1(discriminator: nn.Module, real: Tensor, weight: float, interval: int) -> Tensor:
    """weight / 2 * R1 * interval, to be added once every `interval` steps (lazy regularization). R1 is the gradient
    penalty at true samples (Mescheder et al. 2018, section 4.1).

    StyleGAN2 (section 4.1) also reduces Adam's rate and moments, because its penalty is an additional step. Here it is
    added to the loss of a regular step, so nothing is reduced.
    """
    return weight / 2 * interval * gradient_penalty(discriminator, real)


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, cap: float) -> Tensor:
    """||d reconstruction|| / ||d adversarial||, gradients with respect to the decoder's last layer, at most `cap`
    (VQGAN, Esser et al. 2021, equation 7): balances the adversarial loss with the others. Detached.

    The gradients are means over all processes, so that the weight is that of the whole batch.
    """
    losses = (reconstruction, adversarial)
    gradients = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0].flatten() for loss in losses]
    ours, theirs = mean_over_processes(torch.stack(gradients).detach()).norm(dim=1)
    return (ours / theirs.clamp(min=1e-12)).clamp(max=cap)
