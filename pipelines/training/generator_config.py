"""The settings of adversarial training of a generator."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenreel.errors import ConfigError
from tokenreel.pipelines.training.clip_objective import ClipTrainingConfig
from tokenreel.pipelines.training.config import TrainingConfig, require

STATISTICS_BATCH = 16  # clips


@dataclass(frozen=True)
class GeneratorTrainingConfig(ClipTrainingConfig):
    """The `training:` section of train-generator. `learning_rate` and `betas` are the generator's."""

    discriminator_updates: int = 1  # per step, before the generator's; each on a batch of clips and noise of its own
    discriminator_learning_rate: float | None = None  # peak of the schedule; None: that of the generator
    discriminator_betas: tuple[float, float] | None = None  # None: those of the generator
    shared_clips: bool = False  # both updates judge the same generated clips: one pass less, more memory
    ema_start: int = 0  # steps until which the averaged weights are the current ones; 0: the decay rises slowly instead
    statistics_batches: int = 64  # of 16 clips, whose normalisation statistics are exported; 0: those of training

    def __post_init__(self) -> None:
        super().__post_init__()
        updates, rate, betas = self.discriminator_updates, self.discriminator_learning_rate, self.discriminator_betas
        require(updates >= 1, "discriminator_updates", updates, "at least 1")
        require(rate is None or rate > 0, "discriminator_learning_rate", rate, "positive, or null")
        in_range = betas is None or all(0 <= beta < 1 for beta in betas)
        require(in_range, "discriminator_betas", betas, "in [0, 1), or null")
        require(self.ema_start >= 0, "ema_start", self.ema_start, "0 or more")
        require(self.statistics_batches >= 0, "statistics_batches", self.statistics_batches, "0 or more")
        if self.ema_start and not self.ema_decay:
            raise ConfigError(
                f"ema_start (={self.ema_start}) has no effect without ema_decay: set that too, or omit it"
            )
        if self.shared_clips and updates > 1:
            raise ConfigError(
                f"shared_clips requires discriminator_updates (={updates}) to be 1: more have noise of their own"
            )

    @property
    def of_discriminators(self) -> TrainingConfig:
        """With the discriminators' learning rate and betas in place of the generator's."""
        return replace(
            self,
            learning_rate=self.discriminator_learning_rate or self.learning_rate,
            betas=self.discriminator_betas or self.betas,
        )
