"""DVD-GAN (Clark et al. 2019, https://arxiv.org/abs/1907.06571): clips from noise and a class, or from first frames.

What the paper leaves open is marked "not in the paper" where it is decided; the residual blocks, the norms and their
conditioning are BigGAN's (Brock et al. 2019, https://arxiv.org/abs/1809.11096), to which it refers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.generators.dvd_gan.adversary import DVDGANAdversary
from tokenreel.decoders.generators.dvd_gan.attention import SeparableAttention
from tokenreel.decoders.generators.dvd_gan.config import FIRST_SIDE, DVDGANConfig
from tokenreel.decoders.generators.dvd_gan.discriminators import class_weights_or_one
from tokenreel.decoders.generators.dvd_gan.frame_encoder import FrameEncoder
from tokenreel.decoders.generators.dvd_gan.groups import Group
from tokenreel.decoders.generators.dvd_gan.normalisation import ConditionalNorm, FinalNorm
from tokenreel.decoders.layers import spectral_norm
from tokenreel.decoders.layers.batch_norm import standing_statistics, unchanged_statistics
from tokenreel.errors import ConfigError


class DVDGAN(VideoGenerator):
    """Noise, a class and given frames -> clips. All weights but the class embedding have their spectral norm, for which
    each forward pass in training mode makes one power iteration.
    """

    config_class = DVDGANConfig
    adversary_class = DVDGANAdversary
    config: DVDGANConfig

    def __init__(self, config: DVDGANConfig, frames: int, framing: Framing, classes: tuple[str, ...] = ()) -> None:
        _require_size(config, framing)
        _require_classes(config, classes)
        spec = GeneratorSpec(frames, framing, config.noise, given_frames=config.given_frames, classes=classes)
        super().__init__(config, spec)
        frames = spec.generated_frames
        condition = config.noise + config.embedding
        kind = config.normalisation
        self.class_embedding = nn.Linear(max(1, len(classes)), config.embedding, bias=False)
        self.affine = nn.Linear(condition, config.groups[0][0] * FIRST_SIDE**2)
        self.frame_encoder = FrameEncoder(config) if config.given_frames else None
        of_blocks = "none" if config.blocks_without_norm else kind
        self.groups = nn.ModuleList(
            Group(
                *group,
                frames,
                lambda channels: ConditionalNorm(of_blocks, channels, frames, condition),
                _attention(config, number),
            )
            for number, group in enumerate(config.groups, 1)
        )
        outputs = config.groups[-1][1]
        self.final_norm = FinalNorm(kind, outputs, frames) if config.final_norm else nn.Identity()
        self.pixels = nn.Conv2d(outputs, spec.channels, 3, padding=1)
        # normalising the class embedding makes some trainings fail, says the public code of BigGAN
        spectral_norm.initialise(self, unnormalised=(self.class_embedding,))

    def forward(self, noise: Tensor, conditions: Conditions) -> Tensor:
        if self.training:
            spectral_norm.advance(self)
        classes = class_weights_or_one(conditions.classes, noise)
        condition = torch.cat([noise, self.class_embedding(classes)], 1)  # [B, D]
        x = self.affine(condition).view(len(noise), 1, -1, FIRST_SIDE, FIRST_SIDE)  # the same for all frames
        states = self._first_states(conditions, x)
        for group, state in zip(self.groups, states, strict=True):
            x = self._run(group, x, state, condition)
        x = self.final_norm(x).relu()
        frames = self.pixels(x.flatten(0, 1)).tanh().unflatten(0, x.shape[:2])
        video = frames.transpose(1, 2)
        return video if conditions.given is None else torch.cat([conditions.given.to(video.dtype), video], 2)

    def _first_states(self, conditions: Conditions, x: Tensor) -> list[Tensor]:
        """Of the groups' GRUs: zeros without given frames (not in the paper)."""
        if self.frame_encoder is not None:
            states: list[Tensor] = self.frame_encoder(conditions.given)
            return states
        sides = [FIRST_SIDE]
        for _, _, double in self.config.groups:
            sides.append(sides[-1] * (2 if double else 1))
        sizes = zip(self.config.groups, sides, strict=False)
        return [x.new_zeros(len(x), inputs, side, side) for (inputs, _, _), side in sizes]

    def _run(self, group: nn.Module, *inputs: Tensor) -> Tensor:
        if not (self.config.recompute_activations and torch.is_grad_enabled()):
            output: Tensor = group(*inputs)
            return output

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), unchanged_statistics(group)

        recomputed: Tensor = checkpoint(group, *inputs, use_reentrant=False, context_fn=contexts)
        return recomputed

    def for_export(self) -> Self:
        """Plain layers, whose weights are divided by their largest singular values."""
        exported = copy.deepcopy(self).eval()
        spectral_norm.bake(exported)
        return exported

    @torch.no_grad()
    def load_exported(self, exported: VideoGenerator) -> None:
        super().load_exported(exported)
        spectral_norm.advance(self, spectral_norm.FIRST_ITERATIONS)  # the stored vectors are of other weights

    def set_statistics(self, batches: Iterable[tuple[Tensor, Conditions]]) -> None:
        """Those of batch norms become the means of those of `batches`, in this process alone. In evaluation mode
        afterwards. They depend on the scale of the noise, so that each truncation needs its own.
        """
        self.eval()
        with standing_statistics(self):
            for noise, conditions in batches:
                self(noise, conditions)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Saves what `for_export` makes."""
        if spectral_norm.is_normalised(self):
            self.for_export()._save_pretrained(save_directory)
        else:
            super()._save_pretrained(save_directory)


def _attention(config: DVDGANConfig, group: int) -> SeparableAttention | None:
    if config.attention is None or config.attention.after_group != group:
        return None
    return SeparableAttention(config.attention, config.groups[group - 1][1])


def _require_size(config: DVDGANConfig, framing: Framing) -> None:
    side, count = config.side, len(config.multipliers)
    if (framing.height, framing.width) != (side, side):
        raise ConfigError(
            f"framing: {count} multipliers make {side}x{side} pixels, not {framing.height}x{framing.width}: change the "
            "framing, or the number of generator.multipliers, each of which but the first doubles 4x4"
        )


def _require_classes(config: DVDGANConfig, classes: tuple[str, ...]) -> None:
    if config.class_conditional and not classes:
        raise ConfigError("generator.class_conditional is true, but there are no classes: set it to false")
    if classes and not config.class_conditional:
        raise ConfigError(f"generator.class_conditional is false, but there are {len(classes)} classes: set it to true")
