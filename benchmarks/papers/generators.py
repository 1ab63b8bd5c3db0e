"""What the tables of generators of pixels share: data on Tabletop, training, samples for held-out clips."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tokenreel.benchmarks.jobs.runner import tokenreel
from tokenreel.benchmarks.papers import grid
from tokenreel.benchmarks.papers.ccvs.measures import HELD_OUT
from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.tabletop.clip import CLASSES, TabletopConfig, tabletop_clip
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.decoders.generators.conditions import Conditions, class_weights
from tokenreel.decoders.generators.noise import sample_noise

BATCH = 32  # clips generated at a time
SAMPLING_SEED, STATISTICS_SEED = 0, 1  # of noise
STATISTICS_CLIPS, STATISTICS_BATCH = 1024, 16  # of standing statistics, as in the export of training
EVALUATION = (  # while it trains nothing is scored
    "training={validate_every: 1000000, sample_every: 1000000, sample_clips: 1, validation_clips: 4, "
    "checkpoint_every: 250, keep_checkpoints: 1}"
)


@dataclass(frozen=True)
class Sizes:
    """Training steps, and the numbers of videos, frames, pixels, held-out clips and samples of each."""

    steps: int
    videos: int  # of one clip each; a tenth of them is held out
    frames: int  # T
    pixels: int  # along an edge
    clips: int  # held-out clips, whose conditions are those of the samples; more than features, better several hundred
    samples: int  # for each of them

    @property
    def data(self) -> str:
        return f"tabletop:?videos={self.videos}&frames={self.frames}&size={self.pixels}"

    @property
    def folder(self) -> str:
        return f"{self.videos}-videos-of-{self.frames}-at-{self.pixels}"

    @property
    def scored(self) -> str:
        """Of the name of what is scored."""
        return f"{self.samples}-of-{self.clips}"


Setup: TypeAlias = grid.Setup[Sizes]
Run: TypeAlias = grid.Run[Sizes]


@dataclass(frozen=True)
class OfGenerator(Run):
    """Scores of the samples of a generator, which another run trains."""

    generator: Run

    @property
    def needs(self) -> Sequence[Run]:
        return (self.generator,)

    def name(self, sizes: Sizes) -> str:
        return f"{self.generator.name(sizes)}-sampled-{sizes.scored}"


@dataclass(frozen=True)
class LabelledClips:
    """Clips with their motion programmes."""

    frames: np.ndarray  # uint8 [N, T, H, W, 3]
    labels: np.ndarray  # int64 [N], indices into CLASSES


def labelled_clips(first: int, count: int, frames: int, pixels: int) -> LabelledClips:
    """Tabletop's clips from index `first` on."""
    config = TabletopConfig(height=pixels, width=pixels, frames=frames)
    clips = [tabletop_clip(config, first + index) for index in range(count)]
    return LabelledClips(np.stack([clip.frames for clip in clips]), np.array([clip.class_index for clip in clips]))


def held_out(sizes: Sizes) -> LabelledClips:
    """Clips that no training sees."""
    return labelled_clips(HELD_OUT, sizes.clips, sizes.frames, sizes.pixels)


def train(setup: Setup, folder: Path, preset: str, assignments: Sequence[str]) -> grid.Scores:
    """Trains the preset's generator with these --set; returns the seconds that it took."""
    sizes, started = setup.sizes, time.perf_counter()
    framing = f"data.framing={{height: {sizes.pixels}, width: {sizes.pixels}}}"
    settings = [EVALUATION, f"data.frames={sizes.frames}", framing, *assignments]
    tokenreel(
        [
            *("train-generator", "--preset", preset, *(part for text in settings for part in ("--set", text))),
            *("--data", sizes.data, "--out", str(folder), "--steps", str(sizes.steps), "--seed", str(setup.seed)),
            *("--device", "cpu", "--workers", "0"),
        ]
    )
    return {"seconds": time.perf_counter() - started}


@torch.no_grad()
def samples_of(generator: VideoGenerator, clips: LabelledClips, samples: int, truncation: float = 1.0) -> np.ndarray:
    """uint8 [N, S, T, H, W, 3]: `samples` of the conditions of each clip. More of them begin with the same ones.

    Below a truncation of 1 the generator keeps statistics of normalisation for it.
    """
    if truncation < 1:
        generator.set_statistics(_statistics_batches(generator, clips, truncation))
        generator.eval()
    made = np.empty((len(clips.frames), samples, *clips.frames.shape[1:]), np.uint8)
    for sample in range(samples):
        for first in range(0, len(made), BATCH):
            rows = np.arange(first, min(first + BATCH, len(made)))
            noise = sample_noise(SAMPLING_SEED, sample * len(made) + rows, generator.spec.noise) * truncation
            conditions = conditions_of(generator.spec, clips.frames[rows], clips.labels[rows])
            made[rows, sample] = to_frames(generator.generate(noise, conditions))
    return made


def conditions_of(spec: GeneratorSpec, frames: np.ndarray, labels: np.ndarray) -> Conditions:
    """Those of clips uint8 [B, T, H, W, 3] and their classes [B], as far as the generator has them."""
    video = to_model(frames)
    indices = [spec.class_index(CLASSES[label]) for label in labels] if spec.classes else []
    return Conditions(
        given=video[:, :, : spec.given_frames] if spec.given_frames else None,
        end=video[:, :, -1] if spec.end_frame else None,
        classes=class_weights(indices, spec) if spec.classes else None,
    )


def _statistics_batches(
    generator: VideoGenerator, clips: LabelledClips, truncation: float
) -> Iterator[tuple[Tensor, Conditions]]:
    for first in range(0, STATISTICS_CLIPS, STATISTICS_BATCH):
        numbers = np.arange(first, first + STATISTICS_BATCH)
        noise = sample_noise(STATISTICS_SEED, numbers, generator.spec.noise) * truncation
        rows = numbers % len(clips.frames)
        yield noise, conditions_of(generator.spec, clips.frames[rows], clips.labels[rows])
