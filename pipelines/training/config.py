"""The settings of the training loop: what every system shares. Knows no model and no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class TrainingConfig:
    """The `training:` section. A stage may subclass it with fields of its own."""

    steps: int = 1000  # optimizer steps
    batch: int = 16  # clips of one step, all processes and micro steps together
    accumulate: int = 1  # micro steps of one step
    optimizer: Literal["adam", "adamw", "rmsprop"] = "adamw"
    learning_rate: float = 3e-4  # at the top of the schedule
    betas: tuple[float, float] = (0.9, 0.99)  # decay of the first and second moment; RMSProp: momentum and smoothing
    weight_decay: float = 0.0  # on weights of two and more dimensions only
    warmup: int = 0  # steps until the learning rate is at its top
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: falls to zero at `steps`
    clip: float | None = 1.0  # largest norm of an update's gradient; None leaves gradients as they are
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; weights and optimizer stay in fp32
    threads: int | None = None  # of each process on a CPU, which rounding depends on; None: torch's own number
    ema: float = 0.0  # decay a step of the averaged weights that are validated and exported; 0 for none
    log_every: int = 10  # steps
    checkpoint_every: int = 500  # steps
    keep: int = 2  # checkpoints
    validate_every: int = 500  # steps
    validation_clips: int = 64  # held-out clips, always the same ones
    sample_every: int = 500  # steps
    sample_clips: int = 4  # held-out clips, always the same ones
    seed: int = 0
    log_with: tuple[str, ...] = ()  # trackers of Accelerate (tensorboard, wandb, trackio); metrics.jsonl comes always

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "checkpoint_every", "keep", "validate_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("validation_clips", "sample_every", "sample_clips"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1, or null")
        _require(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "between 0 and 2^63 - 1")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "in [0, 1)")
        _require(self.clip is None or self.clip > 0, "clip", self.clip, "positive, or null")
        _require(0 <= self.ema < 1, "ema", self.ema, "in [0, 1)")

    def micro_batch(self, processes: int) -> int:
        """Clips that one process handles in one micro step. Raises ConfigError where the batch does not divide."""
        shares = processes * self.accumulate
        if self.batch % shares:
            raise ConfigError(
                f"training.batch (={self.batch}) must be a multiple of processes x training.accumulate "
                f"(={processes} x {self.accumulate})"
            )
        return self.batch // shares


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"training.{name} (={value}) must be {expected}")
