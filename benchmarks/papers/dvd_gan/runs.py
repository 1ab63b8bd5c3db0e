"""The runs of DVD-GAN's tables: generators, their samples, and repetition; scored on held-out clips of Tabletop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.benchmarks.papers.ccvs.measures import HELD_OUT
from tokenreel.benchmarks.papers.dvd_gan.class_score import Classifier, trained
from tokenreel.benchmarks.papers.generators import (
    LabelledClips,
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
from tokenreel.metrics.baselines import repeat_last
from tokenreel.metrics.samples import pair_scores, set_scores

SYNTHESIS, PREDICTION = "dvdgan-tabletop-tiny", "dvdgan-tabletop-tiny-fp"  # presets
CLASSIFIER = "classifier.safetensors"


@dataclass(frozen=True)
class ClassifierRun(Run):
    """The classifier of the class score; its own score is the accuracy on clips that it was not trained on."""

    needs = ()

    def name(self, sizes: Sizes) -> str:
        return f"classifier-of-{sizes.clips}"

    def file(self, setup: Setup) -> Path:
        """One for all seeds."""
        return setup.out / f"{setup.sizes.frames}-at-{setup.sizes.pixels}-{CLASSIFIER}"

    def load(self, setup: Setup) -> Classifier:
        return trained(self.file(setup), setup.sizes.frames, setup.sizes.pixels)

    def execute(self, setup: Setup) -> Scores:
        return {"class_score": self.load(setup).score(held_out(setup.sizes))}


@dataclass(frozen=True)
class OtherTrueClips(Run):
    """Scores of as many other true clips, which are as near as distances can be."""

    needs = (ClassifierRun(),)

    def name(self, sizes: Sizes) -> str:
        return f"other-true-clips-of-{sizes.clips}"

    def execute(self, setup: Setup) -> Scores:
        sizes = setup.sizes
        others = labelled_clips(HELD_OUT + sizes.clips, sizes.clips, sizes.frames, sizes.pixels)
        score = {"class_score": ClassifierRun().load(setup).score(others)}
        return set_scores(held_out(sizes).frames, others.frames[:, None]) | score


@dataclass(frozen=True)
class Generator(Run):
    """A generator of the preset of synthesis, or of prediction where frames are given."""

    given_frames: int = 0
    frames: int = 8  # k
    reduction: str = "pool2"  # phi

    needs = ()

    def name(self, sizes: Sizes) -> str:
        return f"given-{self.given_frames}-k{self.frames}-{self.reduction}-{sizes.steps}-steps"

    def execute(self, setup: Setup) -> Scores:
        settings = [f"discriminators.frames={self.frames}", f"discriminators.reduction={self.reduction}"]
        if self.given_frames:
            settings.append(f"generator.given_frames={self.given_frames}")
        preset = PREDICTION if self.given_frames else SYNTHESIS
        return train(setup, setup.path(self), preset, settings)

    def load(self, setup: Setup) -> VideoGenerator:
        return VideoGenerator.from_pretrained(setup.path(self))


@dataclass(frozen=True)
class Synthesized(OfGenerator):
    """Scores of samples of the classes of held-out clips."""

    generator: Generator
    truncation: float = 1.0

    @property
    def needs(self) -> Sequence[Run]:
        return (self.generator, ClassifierRun())

    def name(self, sizes: Sizes) -> str:
        return f"{super().name(sizes)}-truncation-{self.truncation:g}"

    def execute(self, setup: Setup) -> Scores:
        clips = held_out(setup.sizes)
        samples = samples_of(self.generator.load(setup), clips, setup.sizes.samples, self.truncation)
        return set_scores(clips.frames, samples) | {
            "class_score": class_score(ClassifierRun().load(setup), samples, clips.labels)
        }


@dataclass(frozen=True)
class Predicted(OfGenerator):
    """Scores of samples that continue the first frames of held-out clips."""

    generator: Generator

    def execute(self, setup: Setup) -> Scores:
        clips = held_out(setup.sizes)
        samples = samples_of(self.generator.load(setup), clips, setup.sizes.samples)
        return scores_after(clips.frames, samples, self.generator.given_frames)


@dataclass(frozen=True)
class Repeated(Run):
    """Scores of the last given frame, repeated."""

    given_frames: int

    needs = ()

    def name(self, sizes: Sizes) -> str:
        return f"given-{self.given_frames}-repeated-{sizes.clips}"

    def execute(self, setup: Setup) -> Scores:
        true = held_out(setup.sizes).frames
        repeated = repeat_last(true[:, : self.given_frames], setup.sizes.frames)
        return scores_after(true, repeated[:, None], self.given_frames)


def class_score(classifier: Classifier, samples: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of uint8 `samples` [N, S, T, H, W, 3] that are recognised as of the classes `labels` [N]."""
    count = samples.shape[1]
    return classifier.score(LabelledClips(samples.reshape(-1, *samples.shape[2:]), labels.repeat(count)))


def scores_after(true: np.ndarray, samples: np.ndarray, given_frames: int) -> Scores:
    """Of uint8 `samples` [N, S, T, H, W, 3] that continue the first frames of `true` [N, T, H, W, 3]."""
    own = slice(given_frames, None)
    return set_scores(true, samples, own) | pair_scores(true, samples, own)
