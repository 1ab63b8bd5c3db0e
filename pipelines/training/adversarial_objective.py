"""Training a video tokenizer with more than its own losses: a perceptual network, and discriminators of its pictures
and of its runs of frames (CCVS section 3.2). Any tokenizer will do; trained on single frames this is VQGAN.

Each step updates the tokenizer, then the discriminators on the very pictures that it decoded. Discriminators are in
the checkpoints and not in what is exported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.losses import ReconstructionGuard
from tokenreel.pipelines.training.optimizers import build_optimizer
from tokenreel.pipelines.training.tokenizer_objective import TokenizerObjective
from tokenreel.tokenizers.base import Reconstruction, VideoTokenizer


@dataclass(frozen=True)
class AdversarialConfig:
    """How tokenizer and discriminators are trained against one another."""

    weight: float = 1.0  # of each adversarial loss of the tokenizer; lambda_a
    start_step: int = 0  # steps before discriminators are trained and count
    r1: float = 10.0  # weight of the R1 penalty; 0 for none
    r1_every: int = 16  # steps between two steps with the penalty, which is as many times larger there
    adaptive: bool = (
        False  # multiplies `weight` so that the adversarial gradient is as large as that of the other losses
    )
    cap: float = 10.0  # largest factor of `adaptive`
    learning_rate: float | None = None  # of the discriminators; None: that of the tokenizer

    def __post_init__(self) -> None:
        if self.weight <= 0 or self.cap <= 0 or (self.learning_rate is not None and self.learning_rate <= 0):
            raise ConfigError(f"adversarial: weight, cap and learning_rate must be positive, got {self}")
        if self.start_step < 0 or self.r1 < 0 or self.r1_every < 1:
            raise ConfigError(f"adversarial: start_step and r1 must be 0 or more, r1_every at least 1, got {self}")


@dataclass(frozen=True)
class AdversarialTrainingConfig(TrainingConfig):
    """What is null or left out has no part in the training."""

    perceptual: PerceptualConfig | None = None
    image_discriminator: DiscriminatorConfig | None = None
    temporal_discriminator: DiscriminatorConfig | None = None
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    guard: float | None = 3.0  # the run stops where the reconstruction loss is so many times its best; None: never

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guard is not None and self.guard <= 1:
            raise ConfigError(f"training.guard (={self.guard}) must be over 1, or null")
        defaults = dataclasses.asdict(AdversarialConfig())  # allowed: a resolved section has them all
        changed = sorted(dataclasses.asdict(self.adversarial).items() - defaults.items())
        if changed and not self.discriminators:
            raise ConfigError(
                f"training.adversarial.{changed[0][0]} (={changed[0][1]}) does nothing without a discriminator: set "
                "training.image_discriminator or training.temporal_discriminator, or leave it out"
            )

    @property
    def discriminators(self) -> dict[str, DiscriminatorConfig]:
        """Those that are switched on, by the names of their networks."""
        named = {
            "image_discriminator": self.image_discriminator,
            "temporal_discriminator": self.temporal_discriminator,
        }
        return {name: config for name, config in named.items() if config is not None}


def tokenizer_training(section: Mapping[str, Any], path: str = "training") -> TrainingConfig:
    """An AdversarialTrainingConfig where the section has any of its own fields, else a TrainingConfig.

    Raises ConfigError as `from_mapping` does.
    """
    plain = {field.name for field in dataclasses.fields(TrainingConfig)}
    own = {field.name for field in dataclasses.fields(AdversarialTrainingConfig)} - plain
    config: TrainingConfig = from_mapping(
        AdversarialTrainingConfig if own & section.keys() else TrainingConfig, section, path
    )
    return config


DISCRIMINATORS = "discriminators"  # their update
MEMBERS = {"image_discriminator": ImageDiscriminator, "temporal_discriminator": TemporalDiscriminator}
Judged = tuple[Tensor, Tensor]  # decoded and true


@dataclass
class ClipBatch:
    """Clips, and what the tokenizer's update leaves for that of the discriminators."""

    video: Tensor  # [B, 3, T, H, W]
    judged: dict[str, Judged] = field(default_factory=dict)  # by discriminator, without gradients


class AdversarialTokenizerObjective(TokenizerObjective):
    """TokenizerObjective with the losses that `config` switches on; with none of them, and no guard, it is the same."""

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
            name: MEMBERS[name](part, framing.height, framing.width) for name, part in config.discriminators.items()
        }
        self.updates = ("tokenizer", DISCRIMINATORS) if self.discriminators else ("tokenizer",)
        self.networks = {"tokenizer": tokenizer, **self.discriminators}
        self.perceptual = load_perceptual(config.perceptual).to(device) if config.perceptual else None
        self.guard = ReconstructionGuard(config.guard, config.adversarial.start_step) if config.guard else None
        if self.guard is not None:
            self.networks["guard"] = self.guard
        self.step = 0

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("tokenizer",)

    def begin_step(self, step: int) -> None:
        self.step = step

    def watch(self, first: int, losses: Sequence[Mapping[str, float]]) -> None:
        """Raises Diverged where the reconstruction loss has collapsed."""
        if self.guard is not None:
            self.guard.watch(first, [step["reconstruction"] for step in losses])

    def optimizers(self) -> dict[str, Optimizer]:
        optimizers = super().optimizers()
        if self.discriminators:
            rate = self.config.adversarial.learning_rate or self.config.learning_rate
            own = replace(self.config, learning_rate=rate)
            optimizers[DISCRIMINATORS] = build_optimizer(own, self.discriminators.values())
        return optimizers

    def batch(self, rows: np.ndarray, samples: np.ndarray) -> ClipBatch:
        return ClipBatch(super().batch(rows, samples))

    def losses(self, update: str, batch: ClipBatch, generator: torch.Generator) -> dict[str, Tensor]:
        if update == DISCRIMINATORS:
            return self._discriminator_losses(batch.judged) if self._adversarial else {}
        reconstruction = self.tokenizer(batch.video)
        losses = {**reconstruction.losses, **self._perceptual_losses(reconstruction, batch.video)}
        if self._adversarial:
            judged = self._judged(reconstruction, batch.video)
            losses |= self._adversarial_losses(judged, losses)
            batch.judged = {name: (decoded.detach(), true) for name, (decoded, true) in judged.items()}
        return losses

    @property
    def _adversarial(self) -> bool:
        return bool(self.discriminators) and self.step >= self.config.adversarial.start_step

    def _perceptual_losses(self, reconstruction: Reconstruction, video: Tensor) -> dict[str, Tensor]:
        """Of the pictures, or their mean with that of the run, whose first frame is given, not decoded: the weight is
        lambda_r whatever a tokenizer decodes, as for the L1 loss.
        """
        if self.perceptual is None or self.config.perceptual is None:
            return {}
        loss = perceptual_loss(self.perceptual, *_pictures(reconstruction, video))
        if reconstruction.judged_clips is not None:
            decoded, true = (_frames(part[:, :, 1:]) for part in reconstruction.judged_clips)
            loss = (loss + perceptual_loss(self.perceptual, decoded, true)) / 2
        return {"perceptual": self.config.perceptual.weight * loss}

    def _judged(self, reconstruction: Reconstruction, video: Tensor) -> dict[str, Judged]:
        views = {
            "image_discriminator": _pictures(reconstruction, video),
            "temporal_discriminator": reconstruction.judged_clips or (reconstruction.video, video),
        }
        return {name: views[name] for name in self.discriminators}

    def _adversarial_losses(self, judged: dict[str, Judged], others: dict[str, Tensor]) -> dict[str, Tensor]:
        """`others` are the tokenizer's other losses, which the adaptive weight sets the adversarial ones against."""
        settings, losses = self.config.adversarial, dict[str, Tensor]()
        for name, (decoded, _) in judged.items():
            with _frozen(self.discriminators[name]):
                losses[f"adversarial/{name}"] = adversarial_loss(self.discriminators[name](decoded))
        weight: float | Tensor = settings.weight
        if settings.adaptive:
            weight = weight * adaptive_weight(_sum(others), _sum(losses), self.tokenizer.last_layer, settings.cap)
        return {name: weight * loss for name, loss in losses.items()}

    def _discriminator_losses(self, judged: dict[str, Judged]) -> dict[str, Tensor]:
        settings, losses = self.config.adversarial, dict[str, Tensor]()
        penalised = settings.r1 and (self.step - settings.start_step) % settings.r1_every == 0
        for name, (decoded, true) in judged.items():
            network = self.discriminators[name]
            losses[f"{name}/logistic"] = discriminator_loss(network(true), network(decoded))
            if penalised:
                losses[f"{name}/r1"] = lazy_r1(network, true, settings.r1, settings.r1_every)
        return losses


def _pictures(reconstruction: Reconstruction, video: Tensor) -> Judged:
    return reconstruction.judged_frames or (_frames(reconstruction.video), _frames(video))


def _frames(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [B T, 3, H, W]"""
    return video.transpose(1, 2).flatten(0, 1)


def _sum(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()]).sum()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Within it, what is computed asks for no gradients of the network's weights."""
    network.requires_grad_(False)
    yield
    network.requires_grad_(True)
