"""Configurations of the inbetweening generator and of its discriminators; the defaults are the paper's sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenreel.errors import ConfigError

Init = Literal["normal", "torch"]


@dataclass(frozen=True)
class InbetweeningConfig:
    """Sizes of the generator (Li et al. 2019, section 3 and appendix A)."""

    type: ClassVar[str] = "inbetweening"

    noise: int = 128  # D, noise values of a clip
    latent: int = 64  # C, channels of latents
    widths: tuple[int, int, int] = (64, 128, 256)  # channels of image encoder and video generator, fine to coarse
    blocks: int = 24  # L, of the latent generator; as many in each of its stages, which double the number of steps
    fusion: Literal["full", "none", "naive"] = "full"  # table 1; none: no gates; naive: no latent generator
    channels: Literal[1, 3] = 3  # 1: grey, as for KTH
    init: Init = "normal"  # of convolutions. normal: N(0, 0.02), biases 0, as in DCGAN; torch: torch's own

    def __post_init__(self) -> None:
        if min(self.noise, self.latent, self.blocks, *self.widths) < 1:
            raise ConfigError(f"noise, latent, widths and blocks must be at least 1, got {self}")


@dataclass(frozen=True)
class InbetweeningAdversaryConfig:
    """Sizes of both discriminators (appendix A), and the gradient penalty of their losses (section 3.4)."""

    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels at 1/2, 1/4, ... of the frame size
    time_kernels: int = 4  # layers of the video discriminator that take 4 frames; the others, the last ones, take 1
    penalty: Literal["plain", "roth"] = "plain"  # of squared gradients; roth: weighted by how wrong scores are
    penalty_weight: float = 0.1  # 0: no penalty
    init: Init = "normal"  # as the generator's

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"widths (={list(self.widths)}) must be at least 1, and at least one")
        if not 0 <= self.time_kernels <= len(self.widths):
            raise ConfigError(f"time_kernels (={self.time_kernels}) must be between 0 and {len(self.widths)}")
        if self.penalty_weight < 0:
            raise ConfigError(f"penalty_weight (={self.penalty_weight}) must be 0 or more")
