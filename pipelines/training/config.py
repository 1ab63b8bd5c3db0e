"""The settings of the training loop that all systems share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenreel.errors import ConfigError

AT_LEAST_ONE = (
    *("steps", "batch", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints", "validate_every"),
    *("validation_clips", "sample_every", "sample_clips"),
)


@dataclass(frozen=True)
class TrainingConfig:
    """The `training:` section. A stage may add fields in a subclass.

    `accumulate` changes no codebook and no mean over clips. Else a loss is that of a micro-step, over all processes:
    LFQ's entropy of the mean choice, the flow loss's mean over visible pixels, the adaptive adversarial weight. So are
    the statistics of generators' batch norms. The discriminators' minibatch statistic is that of a micro-step in one
    process.
    """

    steps: int = 1000  # optimizer steps
    batch: int = 16  # clips per step, over all processes and micro-steps
    accumulate: int = 1  # micro-steps per step (gradient accumulation)
    optimizer: Literal["adam", "adamw", "rmsprop"] = (
        "adamw"  # AdamW decouples the weight decay; RMSprop has no second beta
    )
    learning_rate: float = 3e-4  # peak of the schedule
    betas: tuple[float, float] = (0.9, 0.99)  # decay of the first and second moments; RMSprop: momentum and smoothing
    weight_decay: float = 0.0  # only of parameters with two or more dimensions
    warmup: int = 0  # steps until the learning rate reaches its peak
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: decays to zero at `steps`
    decay_steps: int = 0  # last steps of a constant schedule, in which it falls linearly to zero (WSD); 0: none
    clip_norm: float | None = 1.0  # maximum gradient norm of an update; None: no clipping
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; weights and optimizer state stay in fp32
    threads: int | None = None  # CPU threads per process, on which rounding depends; None: torch's default
    ema_decay: float = 0.0  # of the averaged weights, which are validated and exported; 0: no averaging
    log_every: int = 10  # steps
    checkpoint_every: int = 500  # steps
    keep_checkpoints: int = 2  # the newest ones
    validate_every: int = 500  # steps
    validation_clips: int = 64  # the first held-out clips
    sample_every: int = 500  # steps
    sample_clips: int = 4  # the first held-out clips
    seed: int = 0  # of the initial weights, the order of clips and all random numbers
    log_with: tuple[str, ...] = ()  # trackers of Accelerate (tensorboard, wandb, ...), besides metrics.jsonl

    def __post_init__(self) -> None:
        for name in AT_LEAST_ONE:
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1, or null")
        require(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        require(0 <= self.decay_steps <= self.steps, "decay_steps", self.decay_steps, f"0 to steps (={self.steps})")
        if self.decay_steps and self.schedule == "cosine":
            raise ConfigError(
                f"decay_steps (={self.decay_steps}) requires schedule: constant; a cosine falls by itself"
            )
        require(0 <= self.seed < 2**63, "seed", self.seed, "between 0 and 2^63 - 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "in [0, 1)")
        require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "positive, or null")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")

    @property
    def decay_start(self) -> int | None:
        """The number of steps before the last `decay_steps`: a run that is made longer continues from there."""
        return self.steps - self.decay_steps if self.decay_steps else None

    def micro_batch(self, processes: int) -> int:
        """Clips per process and micro-step. Raises ConfigError if `batch` is not divisible."""
        parts = processes * self.accumulate
        if self.batch % parts:
            raise ConfigError(
                f"training.batch (={self.batch}) must be a multiple of processes x training.accumulate "
                f"(={processes} x {self.accumulate})"
            )
        return self.batch // parts


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Raises ConfigError with what is expected unless it `holds`."""
    if not holds:
        raise ConfigError(f"{name} (={value}) must be {expected}")
