"""The `training:` section of a tokenizer that discriminators or a perceptual network judge. Builds nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenreel.config import from_mapping
from tokenreel.decoders.losses.discriminators import DiscriminatorConfig
from tokenreel.decoders.losses.perceptual_weights import PerceptualConfig
from tokenreel.errors import ConfigError
from tokenreel.pipelines.training.config import TrainingConfig


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
