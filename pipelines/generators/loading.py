"""A saved generator, ready to sample with some truncation of its noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.generators.noise import sample_noise
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.progress import Progress
from tokenreel.pipelines.generators.conditions import ConditionSource
from tokenreel.pipelines.requests.generation import GeneratorOptions

STATISTICS_CLIPS, STATISTICS_BATCH = 256, 16  # of standing statistics
STATISTICS_SEED = 0  # not that of the samples: a sample is the same beside those of another seed
AS_SAVED = "as saved"


@dataclass
class LoadedGenerator:
    """A generator with what its samples' provenance says of it."""

    model: VideoGenerator
    path: str  # as it was given
    weights_fingerprint: str  # of the saved model, whose statistics may since be others
    truncation: float
    statistics: str = AS_SAVED  # in words

    @property
    def spec(self) -> GeneratorSpec:
        return self.model.spec

    def noise(self, seed: int, samples: np.ndarray) -> Tensor:
        """[B, D] on the CPU, of the standard deviation `truncation` (DVD-GAN varies it; it does not cut off values)."""
        return sample_noise(seed, samples, self.spec.noise) * self.truncation

    def generate(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """Clips [B, 3, T, H, W]."""
        return self.model.generate(noise.to(self.model.device), conditions.to(self.model.device))

    @torch.no_grad()
    def fit_statistics(self, source: ConditionSource) -> None:
        """Recomputes standing statistics for noise that is truncated, where the generator has any; those that are saved
        are of truncation 1. They depend on nothing but the truncation and the conditions of `source`.
        """
        if self.truncation == 1:
            return
        used = 0

        def batches() -> Iterator[tuple[Tensor, Conditions]]:
            nonlocal used
            with Progress(STATISTICS_CLIPS, "statistics", "clip") as bar:
                for first in range(0, STATISTICS_CLIPS, STATISTICS_BATCH):
                    samples = np.arange(first, first + STATISTICS_BATCH)
                    noise, conditions = self.noise(STATISTICS_SEED, samples), source.of(samples)
                    yield noise.to(self.model.device), conditions.to(self.model.device)
                    used += len(samples)
                    bar.advance(len(samples))

        self.model.set_statistics(batches())
        if used:
            self.statistics = f"of {used} clips at truncation {self.truncation:g}"
            self.model.eval()


def load_generator(options: GeneratorOptions, device: str | None, revision: str | None = None) -> LoadedGenerator:
    """Raises HubError if `--generator` is not a saved generator."""
    assert options.generator is not None
    model = VideoGenerator.from_pretrained(options.generator, revision=revision, device=choose_device(device))
    return LoadedGenerator(model, options.generator, model.weights_fingerprint, options.truncation)
