"""Small runs of every objective, from the command to the exported model. Also a script for a launched group of
processes: `every_objective.py OBJECTIVE FOLDER OUT`. FOLDER holds what `make_inputs` wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.data.spec import Framing
from tokenreel.decoders.losses import discriminators
from tokenreel.pipelines.commands import tokenize_dataset, train_prior, train_tokenizer
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest, TrainTokenizerRequest
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import build_tokenizer

ALONE = 1  # samples of the discriminators' minibatch statistic, which is of each process's samples

CLIPS, FRAMES, SIZE, STEPS = 29, 3, 8, 20
OBJECTIVES = ("tokenizer", "adversarial", "prior")
TRAINING = [
    "training={batch: 6, learning_rate: 0.001, log_every: 1, validate_every: 10, sample_every: 10, precision: fp32}",
    "training.checkpoint_every=10",
    "training.sample_clips=2",
]
# Nothing is random within a step: not which vectors a codebook begins with, no dropout.
TOKENIZER = {
    "type": "frame-vqvae", "hidden": 4, "residual": 2, "blocks": 1, "latent": 5,
    "quantizer": {"type": "vq", "codebook_size": 13, "init": "uniform"},
}  # fmt: skip
SETTINGS = [
    f"data={{frames: {FRAMES}, framing: {{height: {SIZE}, width: {SIZE}}}, validation: 0.3}}",
    "tokenizer={type: frame-vqvae, hidden: 4, residual: 2, blocks: 1, latent: 5}",
    "tokenizer.quantizer={type: vq, codebook_size: 13, init: uniform}",
    *TRAINING,
]
DISCRIMINATORS = [
    "training.image_discriminator={width: 2, multipliers: [1, 2]}",
    "training.temporal_discriminator={width: 2, multipliers: [1, 2]}",
    "training.adversarial={start_step: 3, r1_every: 2}",
]


def make_inputs(folder: Path) -> None:
    """Writes videos and a cache of their tokens."""
    random = np.random.default_rng(3)
    np.save(folder / "noise.npy", random.integers(0, 256, (CLIPS, FRAMES, SIZE, SIZE, 3), np.uint8))
    torch.manual_seed(0)
    spread_codes(build_tokenizer(TOKENIZER, FRAMES, Framing(SIZE, SIZE))).save_pretrained(folder / "tokenizer")
    data, tokenizer = str(folder / "noise.npy"), str(folder / "tokenizer")
    made = TokenizeRequest(tokenizer=tokenizer, data=data, out=folder / "cache", workers=1, device="cpu")
    tokenize_dataset.run(made)


def train(objective: str, folder: Path, out: Path) -> dict[str, Any]:
    """Trains into `out`. Returns the summary."""
    flags: dict[str, Any] = {"steps": STEPS, "device": "cpu", "seed": 7, "out": out}
    if objective == "prior":
        settings = ["prior={type: gpt, depth: 1, width: 8, heads: 2}", *TRAINING]
        return train_prior.run(TrainPriorRequest(cache=folder / "cache", assignments=settings, **flags))
    settings = [*SETTINGS, *DISCRIMINATORS] if objective == "adversarial" else SETTINGS
    data = str(folder / "noise.npy")
    return train_tokenizer.run(TrainTokenizerRequest(data=data, assignments=settings, workers=0, **flags))


if __name__ == "__main__":
    discriminators.DEVIATION_GROUP = ALONE
    torch.set_num_threads(1)
    train(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
