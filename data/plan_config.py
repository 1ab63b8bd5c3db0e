"""The configuration and the identity of a plan: all that caches and priors use of it, without sources of videos."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenreel.config import sha256_json
from tokenreel.data.spec import Framing
from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Framing and length of clips, and how the videos are split."""

    framing: Framing
    frames: int  # T of a clip
    clip_stride: int | None = None  # frames between the starts of consecutive clips; None: `frames`, no overlap
    validation: float = 0.1  # fraction of the videos not in the test split, used if the source has no validation split
    seed: int = 0  # of the split

    def __post_init__(self) -> None:
        if self.frames < 1 or (self.clip_stride is not None and self.clip_stride < 1):
            raise ConfigError(f"frames (={self.frames}) and clip_stride (={self.clip_stride}) must be at least 1")
        if not 0 <= self.validation < 1:
            raise ConfigError(f"validation (={self.validation}) must be in [0, 1)")


def plan_sha256(plan: Mapping[str, Any]) -> str:
    """A plan's identity: a hash of all but the explanations (`detail`) of exclusions."""
    plan = copy.deepcopy(dict(plan))
    for video in plan["videos"]:
        video.pop("detail", None)
    return sha256_json(plan)
