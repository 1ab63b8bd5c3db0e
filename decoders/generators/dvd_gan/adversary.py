"""What DVD-GAN is trained against: a spatial and a temporal discriminator with hinge losses (section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.decoders.generators.base import Adversary
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.generators.dvd_gan.discriminators import (
    SpatialDiscriminator,
    TemporalDiscriminator,
    class_weights_or_one,
)
from tokenreel.decoders.layers import spectral_norm
from tokenreel.decoders.losses.adversarial import hinge_adversarial_loss, hinge_discriminator_loss
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom

FACTORS = {"pool2": 2, "pool4": 4, "identity": 1, "crop": 2}  # by which height and width shrink


@dataclass(frozen=True)
class DVDGANAdversaryConfig:
    """Widths are `width` times a multiplier, in both discriminators. Defaults are those of 64 x 64 pixels."""

    width: int = 128  # ch
    multipliers: tuple[int, ...] = (2, 4, 8, 16, 16)  # of the width, fine to coarse; all blocks but the last halve
    frames: int = 8  # k, which the spatial discriminator sees of each clip
    reduction: Literal["pool2", "pool4", "identity", "crop"] = "pool2"  # phi; crop: a random half-size crop
    pool_time: bool = True  # halve time too in the temporal discriminator's 3D blocks (not in the paper)
    frame_hinge: Literal["sum", "each"] = "sum"  # hinge of the sum of frame scores, or of each (mean)

    def __post_init__(self) -> None:
        if not self.multipliers or min(self.width, *self.multipliers) < 1:
            raise ConfigError(f"width and multipliers must be at least 1, got {self}")

    @property
    def widths(self) -> list[int]:
        return [self.width * multiplier for multiplier in self.multipliers]


class Scores(NamedTuple):
    """Of clips; higher is more like true ones."""

    spatial: Tensor  # [B], or [B, k] with a hinge for each frame
    temporal: Tensor  # [B]


class DVDGANAdversary(Adversary):
    """Sees k frames at full size and all frames at a reduced size; of clips with given frames the first of these two
    sees generated frames only.
    """

    config_class = DVDGANAdversaryConfig
    config: DVDGANAdversaryConfig

    def __init__(self, config: DVDGANAdversaryConfig, spec: GeneratorSpec) -> None:
        _require_fit(config, spec)
        super().__init__(config, spec)
        classes = max(1, len(spec.classes))
        self.spatial = SpatialDiscriminator(config.widths, classes)
        self.temporal = TemporalDiscriminator(config.widths, classes, config.pool_time)
        spectral_norm.initialise(self)

    def discriminator_losses(
        self, real: Tensor, fake: Tensor, conditions: Conditions, random: SampleRandom
    ) -> dict[str, Tensor]:
        """Frames and crops of true and generated clips are drawn independently."""
        self._advance()
        true, generated = (self.scores(clips, conditions, random) for clips in (real, fake))
        return {
            "spatial/hinge": hinge_discriminator_loss(true.spatial, generated.spatial),
            "temporal/hinge": hinge_discriminator_loss(true.temporal, generated.temporal),
        }

    def generator_losses(self, fake: Tensor, conditions: Conditions, random: SampleRandom) -> dict[str, Tensor]:
        self._advance()
        scores = self.scores(fake, conditions, random)
        return {
            "adversarial/spatial": hinge_adversarial_loss(scores.spatial),
            "adversarial/temporal": hinge_adversarial_loss(scores.temporal),
        }

    def scores(self, clips: Tensor, conditions: Conditions, random: SampleRandom) -> Scores:
        """Of clips [B, 3, T, H, W]."""
        classes = class_weights_or_one(conditions.classes, clips)
        frames: Tensor = self.spatial(self.spatial_input(clips, random), classes)
        steps: Tensor = self.temporal(self.temporal_input(clips, random), classes)
        return Scores(frames.sum(1) if self.config.frame_hinge == "sum" else frames, steps.sum(1))

    def spatial_input(self, clips: Tensor, random: SampleRandom) -> Tensor:
        """k different frames of each clip that are not given, [B, k, 3, H, W]."""
        generated = clips[:, :, self.spec.given_frames :].transpose(1, 2)
        chosen = random.rand(generated.shape[1]).argsort(1)[:, : self.config.frames]
        return generated[torch.arange(len(clips), device=clips.device)[:, None], chosen]

    def temporal_input(self, clips: Tensor, random: SampleRandom) -> Tensor:
        """phi: all frames, smaller, [B, 3, T, h, w]."""
        factor = FACTORS[self.config.reduction]
        if self.config.reduction == "crop":
            return _random_crops(clips, clips.shape[3] // factor, clips.shape[4] // factor, random)
        return functional.avg_pool3d(clips, (1, factor, factor))

    def _advance(self) -> None:
        if self.training:
            spectral_norm.advance(self)


def _random_crops(clips: Tensor, height: int, width: int, random: SampleRandom) -> Tensor:
    """The same crop of all frames of a clip."""
    rows = random.randint(clips.shape[3] - height + 1).tolist()
    columns = random.randint(clips.shape[4] - width + 1).tolist()
    crops = [
        clip[:, :, row : row + height, column : column + width]
        for clip, row, column in zip(clips, rows, columns, strict=True)
    ]
    return torch.stack(crops)


def _require_fit(config: DVDGANAdversaryConfig, spec: GeneratorSpec) -> None:
    if not 1 <= config.frames <= spec.generated_frames:
        raise ConfigError(
            f"discriminators.frames (={config.frames}) must be between 1 and the number of generated frames "
            f"(={spec.generated_frames})"
        )
    halvings, factor = len(config.multipliers) - 1, FACTORS[config.reduction]
    height, width = spec.framing.height, spec.framing.width
    if height % (factor << halvings) or width % (factor << halvings):
        raise ConfigError(
            f"discriminators.multipliers: {len(config.multipliers)} blocks halve {height}x{width} pixels {halvings} "
            f"times after reduction (={config.reduction}), so both must be multiples of {factor << halvings}"
        )
