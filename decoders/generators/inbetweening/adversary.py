"""Both discriminators of inbetweening and the losses of training against them (section 3.4)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.decoders.generators.base import Adversary
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.generators.inbetweening.config import InbetweeningAdversaryConfig
from tokenreel.decoders.generators.inbetweening.discriminators import ImageDiscriminator, VideoDiscriminator
from tokenreel.decoders.generators.inbetweening.layers import initialise
from tokenreel.decoders.losses.adversarial import adversarial_loss, discriminator_loss, gradient_penalty
from tokenreel.sample_random import SampleRandom


class InbetweeningAdversary(Adversary):
    """Equations 7 to 9: a discriminator of clips, and one of single frames, which sees one intermediate frame of a clip
    at a time, drawn anew for each loss. All losses weigh the same.
    """

    config_class: ClassVar[type[Any]] = InbetweeningAdversaryConfig
    config: InbetweeningAdversaryConfig

    def __init__(self, config: InbetweeningAdversaryConfig, spec: GeneratorSpec) -> None:
        super().__init__(config, spec)
        sizes = (spec.channels, config.widths)
        self.video = VideoDiscriminator(*sizes, spec.frames, spec.framing, config.time_kernels)
        self.image = ImageDiscriminator(*sizes, spec.framing)
        initialise(self, config.init)

    def discriminator_losses(
        self, real: Tensor, fake: Tensor, conditions: Conditions, random: SampleRandom
    ) -> dict[str, Tensor]:
        pairs = {
            "video": (real, fake),
            "image": (intermediate_frames(real, random), intermediate_frames(fake, random)),
        }
        losses = {}
        for name, (true, generated) in pairs.items():
            network = self.get_submodule(name)
            losses[f"{name}/logistic"] = discriminator_loss(network(true), network(generated))
            if self.config.penalty_weight:
                losses[f"{name}/penalty"] = self._penalty(network, true, generated)
        return losses

    def generator_losses(self, fake: Tensor, conditions: Conditions, random: SampleRandom) -> dict[str, Tensor]:
        frames = intermediate_frames(fake, random)
        return {
            "adversarial/video": adversarial_loss(self.video(fake)),
            "adversarial/image": adversarial_loss(self.image(frames)),
        }

    def _penalty(self, network: torch.nn.Module, true: Tensor, generated: Tensor) -> Tensor:
        """The paper has "a constant coefficient of 0.1 for the gradient magnitude" in place of the adaptive scheme of
        Roth et al. 2017. What of that scheme is dropped: the weights and the factor 1/2 as well (plain), or only the
        annealing of the coefficient (roth)?
        """
        weight = self.config.penalty_weight
        if self.config.penalty == "plain":
            return weight * (gradient_penalty(network, true) + gradient_penalty(network, generated))
        of_true = gradient_penalty(network, true, lambda logits: (-logits).sigmoid().square())  # (1 - D)^2
        of_generated = gradient_penalty(network, generated, lambda logits: logits.sigmoid().square())  # D^2
        return weight / 2 * (of_true + of_generated)


def intermediate_frames(clips: Tensor, random: SampleRandom) -> Tensor:
    """Of each clip [B, c, T, H, W] one frame between the first and the last, all as likely: [B, c, H, W]."""
    frames = 1 + random.randint(clips.shape[2] - 2)
    return clips[torch.arange(len(clips), device=clips.device), :, frames]
