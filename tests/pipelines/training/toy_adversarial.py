"""A small frame VQ-VAE trained against both discriminators on noise. Also a script: `toy_adversarial.py OUT DIE_AT`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tokenreel.config import to_mapping
from tokenreel.data.spec import Framing
from tokenreel.pipelines.training.adversarial_objective import (
    AdversarialTokenizerObjective,
    AdversarialTrainingConfig,
    ClipBatch,
    tokenizer_training,
)
from tokenreel.pipelines.training.run_folder import RunIdentity
from tokenreel.pipelines.training.session import Session, make_accelerator
from tokenreel.tokenizers.base import build_tokenizer

CLIPS, FRAMES, HEIGHT, WIDTH = 11, 3, 8, 12
NEVER = 10**6  # a step that no test reaches
SMALL = {"width": 2, "multipliers": [1, 2]}
# Discriminators start in step 5, after the checkpoint of step 4, and are penalised in steps 5, 7, 9 and 11.
SECTION: dict[str, Any] = {
    "steps": 11, "batch": 6, "accumulate": 3, "optimizer": "adam", "betas": [0.0, 0.99], "learning_rate": 0.002,
    "clip_norm": None, "ema_decay": 0.9, "log_every": 3, "checkpoint_every": 4, "keep_checkpoints": 9, "seed": 7,
    "validate_every": 11, "sample_every": 11, "sample_clips": 1,
    "image_discriminator": SMALL, "temporal_discriminator": SMALL,
    "adversarial": {"start_step": 4, "r1_every": 2, "adaptive": True},
}  # fmt: skip


class Clips:
    """Replaces a ClipReader."""

    def __init__(self) -> None:
        self.pixels = np.random.default_rng(3).integers(0, 256, (CLIPS, FRAMES, HEIGHT, WIDTH, 3), np.uint8)

    def read(self, rows: np.ndarray, firsts: None = None, frames: None = None) -> np.ndarray:
        return self.pixels[rows]

    def prefetch(self, rows: np.ndarray, firsts: None = None, frames: None = None) -> None:
        pass


class ToyAdversarial(AdversarialTokenizerObjective):
    die_at = NEVER

    def batch(self, rows: np.ndarray, samples: np.ndarray) -> ClipBatch:
        if samples[0] >= self.die_at * self.config.batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(rows, samples)


def toy_objective(section: dict[str, Any] = SECTION) -> ToyAdversarial:
    config = tokenizer_training(section)
    assert isinstance(config, AdversarialTrainingConfig)
    torch.manual_seed(config.seed)
    quantizer = {"type": "vq", "codebook_size": 13, "init": "uniform"}
    small = {"type": "frame-vqvae", "hidden": 4, "residual": 2, "blocks": 1, "latent": 5, "quantizer": quantizer}
    tokenizer = build_tokenizer(small, FRAMES, Framing(HEIGHT, WIDTH))
    rows = {"train": np.arange(CLIPS - 2), "validation": np.arange(CLIPS - 2, CLIPS)}
    plan: Any = SimpleNamespace(rows=rows.__getitem__, sha256="toy", video=np.arange(CLIPS))
    clips: Any = Clips()
    return ToyAdversarial(tokenizer, plan, clips, config, torch.device("cpu"))


def train_toy(
    out: Path, section: dict[str, Any] = SECTION, die_at: int = NEVER, resume: str = "auto"
) -> dict[str, Any]:
    objective = toy_objective(section)
    objective.die_at = die_at
    identity = RunIdentity("toy", {"training": to_mapping(objective.config)}, "toy", "memory")
    session = Session(identity, out, resume, make_accelerator("cpu", (), out))
    return session.train(objective, objective.config)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_toy(Path(sys.argv[1]), die_at=int(sys.argv[2]))
