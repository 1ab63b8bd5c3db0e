"""Training a video tokenizer with perceptual and adversarial losses besides its own (CCVS section 3.2).

It works with any tokenizer; trained on single frames it is VQGAN. Each step updates the tokenizer, then the
discriminators on the same decoded frames. Discriminators are saved in checkpoints, but not exported.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tokenreel.config import from_mapping
from tokenreel.data.clips import ClipReader
from tokenreel.data.plan import Plan
from tokenreel.decoders.losses.adversarial import adaptive_weight, adversarial_loss, discriminator_loss, lazy_r1
from tokenreel.decoders.losses.discriminators import DiscriminatorConfig, ImageDiscriminator, TemporalDiscriminator
from tokenreel.decoders.losses.perceptual import perceptual_loss
from tokenreel.decoders.losses.perceptual_weights import PerceptualConfig, load_perceptual
from tokenreel.errors import ConfigError
from tokenreel.pipelines.training.losses import ReconstructionGuard
from tokenreel.pipelines.training.optimizers import build_optimizer, frozen
from tokenreel.pipelines.training.tokenizer_objective import TokenizerObjective, TokenizerTrainingConfig
from tokenreel.sample_random import SampleRandom
from tokenreel.tokenizers.base import Reconstruction, VideoTokenizer


@dataclass(frozen=True)
class AdversarialConfig:
    """How the tokenizer and the discriminators are trained against each other."""

    weight: float = 1.0  # of each adversarial loss of the tokenizer; lambda_a
    start_step: int = 0  # first step with discriminators and adversarial losses
    r1: float = 10.0  # weight of the R1 penalty; 0 = none
    r1_every: int = 16  # steps from one R1 penalty to the next (the penalty is multiplied by this interval)
    adaptive: bool = False  # scale `weight` so that the adversarial gradient is as large as that of the other losses
    cap: float = 10.0  # largest factor of `adaptive`
    learning_rate: float | None = None  # of the discriminators; None: that of the tokenizer

    def __post_init__(self) -> None:
        if self.weight <= 0 or self.cap <= 0 or (self.learning_rate is not None and self.learning_rate <= 0):
            raise ConfigError(f"weight, cap and learning_rate must be positive, got {self}")
        if self.start_step < 0 or self.r1 < 0 or self.r1_every < 1:
            raise ConfigError(f"start_step and r1 must be 0 or more, r1_every at least 1, got {self}")


@dataclass(frozen=True)
class AdversarialTrainingConfig(TokenizerTrainingConfig):
    """The `training:` section of a tokenizer with perceptual or adversarial losses; whatever is null is not used."""

    perceptual: PerceptualConfig | None = None
    image_discriminator: DiscriminatorConfig | None = None
    temporal_discriminator: DiscriminatorConfig | None = None
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    guard: float | None = 3.0  # stop when the reconstruction loss exceeds its best by this factor; None: never

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guard is not None and self.guard <= 1:
            raise ConfigError(f"guard (={self.guard}) must be greater than 1, or null")
        defaults = dataclasses.asdict(AdversarialConfig())  # not an error: a resolved section holds all of them
        changed = sorted(dataclasses.asdict(self.adversarial).items() - defaults.items())
        if changed and not self.discriminators:
            raise ConfigError(
                f"adversarial.{changed[0][0]} (={changed[0][1]}) has no effect without a discriminator: set "
                "image_discriminator or temporal_discriminator, or omit it"
            )

    @property
    def discriminators(self) -> dict[str, DiscriminatorConfig]:
        """Configurations of the enabled discriminators by network name."""
        named = {
            "image_discriminator": self.image_discriminator,
            "temporal_discriminator": self.temporal_discriminator,
        }
        return {name: config for name, config in named.items() if config is not None}


def tokenizer_training(section: Mapping[str, Any], path: str = "training") -> TokenizerTrainingConfig:
    """Returns an AdversarialTrainingConfig if the section sets any field of its own, else a TokenizerTrainingConfig.

    Raises ConfigError as `from_mapping` does.
    """
    plain = {field.name for field in dataclasses.fields(TokenizerTrainingConfig)}
    own = {field.name for field in dataclasses.fields(AdversarialTrainingConfig)} - plain
    config: TokenizerTrainingConfig = from_mapping(
        AdversarialTrainingConfig if own & section.keys() else TokenizerTrainingConfig, section, path
    )
    return config


DISCRIMINATORS = "discriminators"  # name of their update
DISCRIMINATOR_CLASSES = {"image_discriminator": ImageDiscriminator, "temporal_discriminator": TemporalDiscriminator}
FramePair = tuple[Tensor, Tensor]  # decoded and true frames, [N, 3, H, W] or [B, 3, n, H, W]


@dataclass
class ClipBatch:
    """Clips, and the decoded frames that the tokenizer's update keeps for the discriminators' update."""

    video: Tensor  # [B, 3, T, H, W]
    frame_pairs: dict[str, FramePair] = field(default_factory=dict)  # by discriminator, detached


class AdversarialTokenizerObjective(TokenizerObjective):
    """TokenizerObjective plus the losses that `config` enables."""

    config: AdversarialTrainingConfig

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        plan: Plan,
        clips: ClipReader,
        config: AdversarialTrainingConfig,
        device: torch.device,
    ) -> None:
        super().__init__(tokenizer, plan, clips, config, device)
        framing = tokenizer.spec.framing
        self.discriminators: dict[str, nn.Module] = {
            name: DISCRIMINATOR_CLASSES[name](section, framing.height, framing.width)
            for name, section in config.discriminators.items()
        }
        self.updates = ("tokenizer", DISCRIMINATORS) if self.discriminators else ("tokenizer",)
        self.perceptual = load_perceptual(config.perceptual).to(device) if config.perceptual else None
        # also where it checks nothing: a run may be resumed with another `training.guard`
        self.guard = ReconstructionGuard(config.guard or math.inf, config.adversarial.start_step)
        self.networks = {"tokenizer": tokenizer, **self.discriminators, "guard": self.guard}
        self.step = 0

    @property
    def averaged_networks(self) -> tuple[str, ...]:
        return ("tokenizer",)

    def begin_step(self, step: int) -> None:
        self.step = step

    def check_losses(self, first_step: int, losses: Sequence[Mapping[str, float]]) -> None:
        """Raises Diverged if the reconstruction loss has risen beyond `training.guard`."""
        if self.config.guard is not None:
            self.guard.check(first_step, [step["reconstruction"] for step in losses])

    def optimizers(self) -> dict[str, Optimizer]:
        optimizers = super().optimizers()
        if self.discriminators:
            rate = self.config.adversarial.learning_rate or self.config.learning_rate
            own = replace(self.config, learning_rate=rate)
            optimizers[DISCRIMINATORS] = build_optimizer(own, self.discriminators.values())
        return optimizers

    def initialise(self, batches: Sequence[ClipBatch], randoms: Sequence[SampleRandom]) -> None:
        super().initialise([batch.video for batch in batches], randoms)

    def batch(self, rows: np.ndarray, samples: np.ndarray) -> ClipBatch:
        return ClipBatch(super().batch(rows, samples))

    def losses(self, update: str, batch: ClipBatch, random: SampleRandom) -> dict[str, Tensor]:
        if update == DISCRIMINATORS:
            return self._discriminator_losses(batch.frame_pairs) if self._adversarial else {}
        reconstruction = self.tokenizer(batch.video, random)
        losses = {**reconstruction.losses, **self._perceptual_losses(reconstruction, batch.video)}
        if self._adversarial:
            pairs = self._frame_pairs(reconstruction, batch.video)
            losses |= self._adversarial_losses(pairs, losses)
            batch.frame_pairs = {name: (decoded.detach(), true) for name, (decoded, true) in pairs.items()}
        return losses

    @property
    def _adversarial(self) -> bool:
        return bool(self.discriminators) and self.step >= self.config.adversarial.start_step

    def _perceptual_losses(self, reconstruction: Reconstruction, video: Tensor) -> dict[str, Tensor]:
        """The loss of single frames, averaged with that of a run of frames if the tokenizer decodes one (without its
        first frame, which is given): the weight is lambda_r whatever a tokenizer decodes, as for the L1 loss.
        """
        if self.perceptual is None or self.config.perceptual is None:
            return {}
        loss = perceptual_loss(self.perceptual, *_pictures(reconstruction, video))
        if reconstruction.judged_clips is not None:
            decoded, true = (_frames(part[:, :, 1:]) for part in reconstruction.judged_clips)
            loss = (loss + perceptual_loss(self.perceptual, decoded, true)) / 2
        return {"perceptual": self.config.perceptual.weight * loss}

    def _frame_pairs(self, reconstruction: Reconstruction, video: Tensor) -> dict[str, FramePair]:
        """What each discriminator is shown, decoded and true."""
        pairs = {
            "image_discriminator": _pictures(reconstruction, video),
            "temporal_discriminator": reconstruction.judged_clips or (reconstruction.video, video),
        }
        return {name: pairs[name] for name in self.discriminators}

    def _adversarial_losses(self, pairs: dict[str, FramePair], others: dict[str, Tensor]) -> dict[str, Tensor]:
        """`others`: the tokenizer's other losses, to whose gradient the adaptive weight scales the adversarial one."""
        settings, losses = self.config.adversarial, dict[str, Tensor]()
        for name, (decoded, _) in pairs.items():
            with frozen(self.discriminators[name]):
                losses[f"adversarial/{name}"] = adversarial_loss(self.discriminators[name](decoded))
        weight: float | Tensor = settings.weight
        if settings.adaptive:
            weight = weight * adaptive_weight(_sum(others), _sum(losses), self.tokenizer.last_layer, settings.cap)
        return {name: weight * loss for name, loss in losses.items()}

    def _discriminator_losses(self, pairs: dict[str, FramePair]) -> dict[str, Tensor]:
        settings, losses = self.config.adversarial, dict[str, Tensor]()
        penalised = settings.r1 and (self.step - settings.start_step) % settings.r1_every == 0
        for name, (decoded, true) in pairs.items():
            network = self.discriminators[name]
            losses[f"{name}/logistic"] = discriminator_loss(network(true), network(decoded))
            if penalised:
                losses[f"{name}/r1"] = lazy_r1(network, true, settings.r1, settings.r1_every)
        return losses


def _pictures(reconstruction: Reconstruction, video: Tensor) -> FramePair:
    return reconstruction.judged_frames or (_frames(reconstruction.video), _frames(video))


def _frames(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [B T, 3, H, W]"""
    return video.transpose(1, 2).flatten(0, 1)


def _sum(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()]).sum()
