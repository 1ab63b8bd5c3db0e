"""Training a prior on a token cache: nats a code minimised, judged in bits a code beside what counting achieves.

Knows no particular prior and no pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from tokenreel.config import to_mapping
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.errors import ConfigError
from tokenreel.metrics.likelihood import bits_per_code
from tokenreel.pipelines.prior_chain import with_given_steps
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.optimizers import build_optimizer
from tokenreel.priors.base import Prior
from tokenreel.priors.counted import CodeFrequency, CodeFrequencyConfig, PreviousStep, PreviousStepConfig
from tokenreel.priors.sampling import sample

ROWS_AT_ONCE = 64  # clips, where they are counted
MOST_COUNTED = 8192  # clips that the baselines and ranks of codes are counted on, spread over the training rows
VALIDATED_AT_ONCE = 8  # clips


@dataclass(frozen=True)
class PriorTrainingConfig(TrainingConfig):
    """The `training:` section as train-prior takes it."""

    prime: int = 1  # frames given, in training, validation and samples alike; 0: the prior begins videos itself


class PriorObjective(Objective):
    """Trains on the `train` rows of `cache`; of whole videos that is every window, wherever it begins."""

    updates: ClassVar[tuple[str, ...]] = ("prior",)

    def __init__(self, prior: Prior, cache: TokenCache, config: PriorTrainingConfig, device: torch.device) -> None:
        self.prior = prior
        self.networks = {"prior": prior}
        self.cache = cache
        self.config = config
        self.device = device
        self.rows = cache.rows("train", hop=1)
        has_held_out = any(video.get("split") == "validation" for video in cache.plan["videos"])
        self.held_out = cache.rows("validation")[: config.validation_clips] if has_held_out else self.rows[:0]
        self.data_identity = f"cache {cache.cache_id} of the tokenizer {cache.code_fingerprint}"
        self.given = prior.given_frames(config.prime)
        if self.given.all():
            frames = prior.spec.frames
            raise ConfigError(f"training.prime (={config.prime}) leaves nothing to predict in clips of {frames} frames")
        prior.code_fingerprint = cache.code_fingerprint
        prior.prepare(self._counted())

    def optimizers(self) -> dict[str, Optimizer]:
        return {"prior": build_optimizer(self.config, [self.prior])}

    def batch(self, rows: np.ndarray, samples: np.ndarray) -> dict[str, Tensor]:
        return {name: torch.from_numpy(codes).long().to(self.device) for name, codes in self._read(rows).items()}

    def prefetch(self, rows: np.ndarray) -> None:
        """The cache is mapped into memory: reading ahead would gain nothing."""

    def losses(self, update: str, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        given = self.given.to(self.device).expand(len(next(iter(batch.values()))), -1)
        return {"nats_per_code": self.prior.loss(batch, given, generator)}

    def validate(self) -> dict[str, float]:
        """bits/code of the prior and of both counted baselines, for the same held-out clips and given frames."""
        if not len(self.held_out):
            return {}
        scores = {"bits_per_code": self._bits(self.prior, self.device), "given_frames": self.config.prime}
        return {**scores, **self._baselines}

    def write_samples(self, folder: Path) -> None:
        """A token file for `tokenreel decode`: what the prior makes of the first frames of held-out clips.

        Levels that other priors predict are the clips' own.
        """
        rows = self.held_out[: self.config.sample_clips]
        if folder.exists() or not len(rows):  # written before the run was interrupted: the same samples
            return
        batch = self.batch(rows, rows)
        drawn = sample(self.prior, batch, self.given, seed=self.config.seed).tokens
        drawn = {name: with_given_steps(self.cache.spec, name, codes, batch) for name, codes in drawn.items()}
        tokens = {**self.cache.read(rows), **{name: codes.cpu().numpy() for name, codes in drawn.items()}}
        sources = [{"id": name, "seed": self.config.seed} for name in self.cache.source_ids(rows)]
        provenance = {"prior": to_mapping(self.prior.config), "given_frames": self.config.prime}
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_token_file(folder, self.cache.spec, tokens, self.cache.code_fingerprint, sources, provenance)

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.prior.about = about
        self.prior.save_pretrained(folder)

    def _read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return self.cache.read(rows, streams=(*self.prior.reads, *self.prior.predicts))

    def _bits(self, prior: Prior, device: torch.device) -> float:
        given = prior.given_frames(self.config.prime)  # in the prior's own order
        clips = self._batches(self.held_out, VALIDATED_AT_ONCE, device)
        return bits_per_code(prior, clips, given).bits_per_code

    def _batches(self, rows: np.ndarray, size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(rows), size):
            codes = self._read(rows[first : first + size])
            yield {name: torch.from_numpy(array).long().to(device) for name, array in codes.items()}

    def _counted(self) -> Iterator[dict[str, Tensor]]:
        """Training clips for what is counted, on the CPU."""
        some = self.rows[:: max(1, len(self.rows) // MOST_COUNTED)]
        return self._batches(some, ROWS_AT_ONCE, torch.device("cpu"))

    @cached_property
    def _baselines(self) -> dict[str, float]:
        cpu, spec, predicts = torch.device("cpu"), self.cache.spec, self.prior.predicts
        baselines = {
            "bits_per_code_frequency": CodeFrequency(CodeFrequencyConfig(predicts), spec),
            "bits_per_code_previous_step": PreviousStep(PreviousStepConfig(predicts), spec),
        }
        for baseline in baselines.values():
            baseline.fit(self._counted())
        return {name: self._bits(baseline, cpu) for name, baseline in baselines.items()}
