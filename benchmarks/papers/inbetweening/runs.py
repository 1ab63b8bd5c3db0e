"""The runs of the tables of "From here to there": generators, baselines and samples of other systems, all scored
alike on the frames between the same held-out start and end frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.benchmarks.papers.ccvs.measures import HELD_OUT
from tokenreel.benchmarks.papers.generators import (
    OfGenerator,
    Run,
    Setup,
    Sizes,
    held_out,
    labelled_clips,
    samples_of,
    train,
)
from tokenreel.benchmarks.papers.grid import Scores
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.metrics.baselines import cross_fade, nearest_key_frame
from tokenreel.metrics.samples import pair_scores, set_scores

PRESET = "inbetween-tabletop-tiny"
OWN = slice(1, -1)  # frames between the start and the end frame
TRUE, SAMPLES = "true.npy", "samples.npy"  # in a folder of another system's samples
OTHER_TRUE, CROSS_FADE, NEAREST = "other true clips", "cross-fade", "nearest of both frames"


@dataclass(frozen=True)
class Generator(Run):
    """The preset's generator with another fusion or gradient penalty."""

    fusion: str = "full"
    penalty: str = "plain"

    needs = ()

    def name(self, sizes: Sizes) -> str:
        return f"{self.fusion}-{self.penalty}-{sizes.steps}-steps"

    def execute(self, setup: Setup) -> Scores:
        settings = (f"generator.fusion={self.fusion}", f"discriminators.penalty={self.penalty}")
        return train(setup, setup.path(self), PRESET, settings)

    def samples(self, setup: Setup) -> np.ndarray:
        """uint8 [N, S, T, H, W, 3], between the start and end frames of the held-out clips."""
        model = VideoGenerator.from_pretrained(setup.path(self))
        return samples_of(model, held_out(setup.sizes), setup.sizes.samples)


@dataclass(frozen=True)
class Sampled(OfGenerator):
    """Scores of a generator's samples."""

    generator: Generator

    def execute(self, setup: Setup) -> Scores:
        return scores_between(held_out(setup.sizes).frames, self.generator.samples(setup))


@dataclass(frozen=True)
class Baseline(Run):
    """Scores of clips that need no model, and of as many other true clips, which are as near as distances can be."""

    kind: str

    needs = ()

    def name(self, sizes: Sizes) -> str:
        return f"{self.kind.replace(' ', '-')}-of-{sizes.clips}"

    def execute(self, setup: Setup) -> Scores:
        sizes = setup.sizes
        true = held_out(sizes).frames
        if self.kind == OTHER_TRUE:
            others = labelled_clips(HELD_OUT + sizes.clips, sizes.clips, sizes.frames, sizes.pixels).frames
            return set_scores(true, others[:, None], OWN)
        between = cross_fade if self.kind == CROSS_FADE else nearest_key_frame
        return scores_between(true, between(true[:, 0], true[:, -1], sizes.frames)[:, None])


@dataclass(frozen=True)
class OtherSystem(Run):
    """Scores of the samples in a folder: uint8 `true.npy` [N, T, H, W, 3], the held-out clips in their order, and
    `samples.npy` [N, S, T, H, W, 3], of any multiple of the tables' size.
    """

    title: str
    folder: Path

    needs = ()

    def name(self, sizes: Sizes) -> str:
        return f"samples-{self.title.replace(' ', '-')}"

    def execute(self, setup: Setup) -> Scores:
        sizes = setup.sizes
        true, samples = (
            shrunk(np.load(self.folder / name, allow_pickle=False), sizes.pixels) for name in (TRUE, SAMPLES)
        )
        if true.shape[:2] != (sizes.clips, sizes.frames):
            raise SystemExit(
                f"{self.folder}: clips {true.shape}, the tables have {sizes.clips} of {sizes.frames} frames"
            )
        return scores_between(true, samples)


def scores_between(true: np.ndarray, samples: np.ndarray) -> Scores:
    """Of uint8 `samples` [N, S, T, H, W, 3] between the first and the last frames of `true` [N, T, H, W, 3]."""
    return set_scores(true, samples, OWN) | pair_scores(true, samples, OWN) | {"samples": samples.shape[1]}


def shrunk(video: np.ndarray, pixels: int) -> np.ndarray:
    """uint8 [..., H, W, 3] -> uint8 [..., pixels, pixels, 3], each pixel the mean of a block."""
    *leading, height, width, _ = video.shape
    if height % pixels or width % pixels:
        raise SystemExit(f"videos of {height}x{width} cannot be averaged down to {pixels}x{pixels}")
    blocks = video.reshape(*leading, pixels, height // pixels, pixels, width // pixels, 3)
    return np.rint(blocks.mean((-4, -2))).astype(np.uint8)
