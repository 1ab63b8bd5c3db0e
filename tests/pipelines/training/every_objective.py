"""Small runs of every objective, from the command to the exported model, with everything that is random in a step. Also
a script for a launched group of processes, which trains all of them in turn: `every_objective.py FOLDER OUT`. FOLDER
holds what `make_inputs` wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[3]))  # last: its folders are no packages, so they hide nothing

from tests.decoders.generators.toy_generators import ToyGenerator

from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.decoders.generators.base import GENERATORS as REGISTRY
from tokenreel.decoders.losses import discriminators
from tokenreel.pipelines.commands import train_generator, train_prior, train_tokenizer
from tokenreel.pipelines.requests.training import TrainGeneratorRequest, TrainPriorRequest, TrainTokenizerRequest

ALONE = 1  # samples of the discriminators' minibatch statistic, which is of each process's samples

CLIPS, FRAMES, SIZE, STEPS, RESUMED = 29, 3, 8, 20, 10
K = 13  # codebook size
TRAINING = [
    "training={batch: 8, learning_rate: 0.001, log_every: 1, validate_every: 10, sample_every: 10, precision: fp32}",
    f"training.checkpoint_every={RESUMED}",
    "training.sample_clips=2",
]
QUANTIZER = f"tokenizer.quantizer={{type: vq, codebook_size: {K}, init: kmeans, revive_below: 0.3, decay: 0.9}}"
DATA = f"data={{frames: {FRAMES}, framing: {{height: {SIZE}, width: {SIZE}}}, validation: 0.3}}"
CONTEXT = [
    "tokenizer={type: context-autoencoder, width: 2, multipliers: [1, 2], latent: 5, autoregressive_frames: 2}",
    "tokenizer.flow={widths: [3]}",
    "tokenizer.augmented_views={frames_per_clip: 2, object_motion: {fraction: 0.8}}",
]
DISCRIMINATORS = [
    "training.image_discriminator={width: 2, multipliers: [1, 2]}",
    "training.temporal_discriminator={width: 2, multipliers: [1, 2]}",
    "training.adversarial={start_step: 3, r1_every: 2, adaptive: true}",
]
TOKENIZERS = {
    "frames": ["tokenizer={type: frame-vqvae, hidden: 4, residual: 2, blocks: 1, latent: 5}", QUANTIZER],
    "lookup-free": [
        "tokenizer={type: frame-vqvae, hidden: 4, residual: 2, blocks: 1, latent: 5, quantizer: {type: lfq, bits: 3}}",
        "training.accumulate=2",
    ],
    "adversarial": [*CONTEXT, QUANTIZER, *DISCRIMINATORS],
}
PRIORS = {
    "gpt": [
        "prior={type: gpt, depth: 1, width: 8, heads: 2, dropout: 0.3, controls: [state]}",
        "training.drop_controls=0.5",
        "training.recompute_activations=true",
    ],
    "slices": [
        "prior={type: subscale-transformer, subscale: [1, 2, 1], kernel: [3, 3, 3], depth: 1, width: 8}",
        "prior={heads: 2, head_width: 4, embedding: 5}",
    ],
}
GENERATORS = {
    "by class": [
        "generator={type: toy, class_conditional: true}",
        "training={discriminator_updates: 2, random_start: true, ema_decay: 0.9, statistics_batches: 2}",
    ],
    "between frames": [
        "generator={type: toy, given_frames: 1, end_frame: true}",
        "training={shared_clips: true, statistics_batches: 2, accumulate: 2}",
    ],
}
OBJECTIVES = (*TOKENIZERS, *PRIORS, *GENERATORS)


def make_inputs(folder: Path) -> None:
    """Writes videos and a cache of tokens with a control."""
    random = np.random.default_rng(3)
    np.save(folder / "noise.npy", noise := random.integers(0, 256, (CLIPS, FRAMES, SIZE, SIZE, 3), np.uint8))
    np.savez(folder / "labelled.npz", noise=noise, labels=np.array([f"class {i % 3}" for i in range(CLIPS)]))
    video = StreamSpec("video", (FRAMES, 4, 2), K)
    state = StreamSpec("state", (FRAMES, 1, 1), 7, role="control", unconditional_token=7)
    spec = TokenSpec((video, state), FRAMES, Framing(SIZE, SIZE))
    tokens = {s.name: random.integers(0, s.codebook_size, (CLIPS, *s.shape)) for s in spec.streams}
    sources = [{"id": f"{i}", "split": "train" if i % 3 else "validation"} for i in range(CLIPS)]
    write_token_file(folder / "cache", spec, tokens, "foreign", sources, kind="codes")


def train(objective: str, folder: Path, out: Path, resume: str = "auto") -> dict[str, Any]:
    """Trains into `out`. Returns the summary."""
    flags: dict[str, Any] = {"steps": STEPS, "device": "cpu", "seed": 7, "out": out, "resume": resume}
    if objective in PRIORS:
        settings = [*TRAINING, *PRIORS[objective]]
        return train_prior.run(TrainPriorRequest(cache=folder / "cache", assignments=settings, **flags))
    if objective in GENERATORS:
        REGISTRY.register("toy", ToyGenerator)
        settings, data = [DATA, *TRAINING, *GENERATORS[objective]], str(folder / "labelled.npz")
        request = TrainGeneratorRequest(data=data, assignments=settings, workers=0, **flags)
        return train_generator.run(request)
    settings, data = [DATA, *TRAINING, *TOKENIZERS[objective]], str(folder / "noise.npy")
    return train_tokenizer.run(TrainTokenizerRequest(data=data, assignments=settings, workers=0, **flags))


if __name__ == "__main__":
    discriminators.DEVIATION_GROUP = ALONE
    torch.set_num_threads(1)
    inputs, runs = map(Path, sys.argv[1:])
    for name in OBJECTIVES:
        train(name, inputs, runs / name)
        train(name, inputs, runs / f"{name}-resumed", str(runs / name / f"checkpoints/step_{RESUMED:08d}"))
