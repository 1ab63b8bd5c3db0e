"""What objectives share that train on clips of videos: which clips, and where they begin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tokenreel.counter_rng import uniforms
from tokenreel.data.clips import ClipReader
from tokenreel.data.plan import Plan
from tokenreel.errors import DataError
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.objective import Objective


@dataclass(frozen=True)
class ClipTrainingConfig(TrainingConfig):
    """The `training:` section of a command that trains on videos."""

    random_start: bool = False  # training clips begin at any frame of their video, not only at those of the plan


class ClipObjective(Objective):
    """`clips` reads the rows of `plan`. Validation uses the first `validation_clips` of its validation rows."""

    def __init__(self, plan: Plan, clips: ClipReader, config: ClipTrainingConfig, device: torch.device) -> None:
        self.clips = clips
        self.config = config
        self.device = device
        self.rows = plan.rows("train")
        self.held_out = plan.rows("validation")[: config.validation_clips]
        self.held_out_videos = plan.video[self.held_out].tolist()
        self.data_identity = plan.sha256
        if not len(self.rows):
            raise DataError("there is no training video: lower data.validation or give more videos")

    @property
    def training_frames(self) -> int:
        """Frames of a training clip that begins at any frame."""
        return self.clips.plan.config.frames

    def prefetch(self, rows: np.ndarray, samples: np.ndarray) -> None:
        self.clips.prefetch(rows, *self.starts(rows, samples))

    def starts(self, rows: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray | None, int | None]:
        """Where the training clips begin in the rows' videos, [n], and of how many frames they are. A start is sampled
        from (seed, sample), all of a video's equally likely.
        """
        if not self.config.random_start:
            return None, None
        uniform = uniforms(self.config.seed, samples, np.arange(1))[:, 0]
        starts = self.clips.plan.starts(rows, self.training_frames)
        return (uniform * starts).astype(np.int64), self.training_frames
