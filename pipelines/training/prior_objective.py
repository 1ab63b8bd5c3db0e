"""Training a prior on a token cache: nats a code minimised, judged in bits a code beside what counting achieves.

Tracks that a prior of frames predicts count in the loss (CCVS equation 8) and are given where it is judged: bits/code
are of levels only. A prior of tracks alone is judged on these. Knows no particular prior and no pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from tokenreel.config import to_mapping
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import sample_sources, write_token_file
from tokenreel.data.controls.end_frame import end_tokens
from tokenreel.data.spec import END, END_STEP
from tokenreel.errors import ConfigError
from tokenreel.metrics.likelihood import bits_per_code
from tokenreel.pipelines.generation.cascade import with_given_steps
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.optimizers import build_optimizer
from tokenreel.priors.base import Prior
from tokenreel.priors.ngram.prior import TemporalBigramConfig, TemporalBigramPrior, UnigramConfig, UnigramPrior
from tokenreel.priors.sampling.counter_rng import uniforms
from tokenreel.priors.sampling.video import sample

ROWS_AT_ONCE = 64  # clips, where they are counted
MAX_COUNTED = 8192  # clips that the baselines and ranks of codes are counted on, spread over the training rows
VALIDATED_AT_ONCE = 8  # clips


@dataclass(frozen=True)
class PriorTrainingConfig(TrainingConfig):
    """The `training:` section as train-prior takes it."""

    prime: int = 1  # frames given, in training, validation and samples alike; 0: the prior begins videos itself
    drop_controls: float = 0.0  # share of clips trained on without some or all controls: null codes, as guidance needs

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_controls < 1:
            raise ConfigError(f"training.drop_controls (={self.drop_controls}) must be in [0, 1)")


class PriorObjective(Objective):
    """Trains on the `train` rows of `cache`; of whole videos that is every window, wherever it begins."""

    updates: tuple[str, ...] = ("prior",)

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
        self.tracks = prior.control_streams
        self.controls = _controls(self.tracks)
        if (self.given | prior.given_streams(self.tracks)).all():
            frames = prior.spec.frames
            raise ConfigError(f"training.prime (={config.prime}) leaves nothing to predict in clips of {frames} frames")
        if config.drop_controls:
            _require_null_codes(prior, config.drop_controls)
        prior.code_fingerprint = cache.code_fingerprint
        prior.trained_without_controls = config.drop_controls > 0
        prior.prepare(self._counted())

    def optimizers(self) -> dict[str, Optimizer]:
        return {"prior": build_optimizer(self.config, [self.prior])}

    def batch(self, rows: np.ndarray, samples: np.ndarray) -> dict[str, Tensor]:
        """The end step of each clip, and which controls it goes without, are drawn from (seed, sample)."""
        ends, drops = uniforms(self.config.seed, samples, np.arange(2)).T
        codes = self._read(rows, ends)
        tokens = {name: torch.from_numpy(array).long().to(self.device) for name, array in codes.items()}
        if not self.config.drop_controls:
            return tokens
        dropped = torch.from_numpy(drawn_subsets(drops, self.config.drop_controls, len(self.controls))).to(self.device)
        for tracks, here in zip(self.controls, dropped.unbind(1), strict=True):
            tokens = self._without(tracks, tokens, here)
        return tokens

    def prefetch(self, rows: np.ndarray) -> None:
        """The cache is mapped into memory: reading ahead would gain nothing."""

    def losses(self, update: str, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        given = self.given.to(self.device).expand(len(next(iter(batch.values()))), -1)
        if self.config.drop_controls:  # a null code is never predicted
            given = given | (self.prior.flatten(batch) == self.prior.codebook_sizes().to(self.device))
        return {"nats_per_code": self.prior.loss(batch, given, generator)}

    def validate(self) -> dict[str, float]:
        """bits/code of the prior and of both counted baselines, for the same held-out clips and given frames."""
        if not len(self.held_out):
            return {}
        scores = {"bits_per_code": self._bits(self.prior, self.device), "given_frames": self.config.prime}
        if self.config.drop_controls:
            scores["bits_per_code_without_controls"] = self._bits(self.prior, self.device, controlled=False)
        return {**scores, **self._baselines}

    def write_samples(self, folder: Path) -> None:
        """A token file for `tokenreel decode`: what the prior makes of the first frames of held-out clips.

        Tracks, the end frame among them, and levels that other priors predict are the clips' own. A prior of tracks
        alone draws nothing to be seen.
        """
        rows = self.held_out[: self.config.sample_clips]
        written = folder.exists()  # before the run was interrupted: the same samples
        if written or not len(rows) or not self.prior.predicts_frames:
            return
        (batch,) = self._batches(rows, len(rows), self.device)
        given = self.given | self.prior.given_streams(self.tracks)
        drawn = sample(self.prior, batch, given, seed=self.config.seed).tokens
        drawn = {name: with_given_steps(self.cache.spec, name, codes, batch) for name, codes in drawn.items()}
        tokens = {**self.cache.read(rows), **{name: codes.cpu().numpy() for name, codes in drawn.items()}}
        sources = sample_sources(self.cache, rows, self.config.seed)
        provenance: dict[str, Any] = {"prior": to_mapping(self.prior.config), "given_frames": self.config.prime}
        if self.tracks:
            provenance["given_tracks"] = [name for name in self.tracks if name != END_STEP]
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_token_file(folder, self.cache.spec, tokens, self.cache.code_fingerprint, sources, provenance)

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.prior.about = about
        self.prior.save_pretrained(folder)

    def _read(self, rows: np.ndarray, ends: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What the prior knows of the clips. The end frame, if it is among that, is each one's last (None), or the one
        that `ends` [n] in (0, 1) picks of the steps that are not given.
        """
        names = [name for name in (*self.prior.reads, *self.prior.predicts) if name not in (END, END_STEP)]
        codes, spec = self.cache.read(rows, streams=names), self.prior.spec
        if END not in self.prior.reads:
            return codes
        prime, steps = spec.steps_of_frames(self.config.prime, spec.levels[0]), spec.levels[0].grid[0]
        picked = np.full(len(rows), steps - 1) if ends is None else prime + (ends * (steps - prime)).astype(np.int64)
        return codes | end_tokens(spec, codes, picked)

    def _without(self, tracks: Sequence[str], tokens: dict[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
        """`tokens` with null codes for these tracks in the `dropped` rows, bool [n]."""
        where = dropped.view(-1, 1, 1, 1, 1)
        null = {name: tokens[name].masked_fill(where, self.prior.spec.stream(name).codebook_size) for name in tracks}
        return tokens | null

    def _bits(self, prior: Prior, device: torch.device, controlled: bool = True) -> float:
        """Of the codes after the given frames, whatever the prior is told by tracks."""
        given = prior.given_frames(self.config.prime) | prior.given_streams(prior.control_streams)
        clips: Iterable[dict[str, Tensor]] = self._batches(self.held_out, VALIDATED_AT_ONCE, device)
        if not controlled:
            everywhere = torch.ones(1, dtype=torch.bool, device=device)
            clips = (self._without(self.tracks, some, everywhere) for some in clips)
        return bits_per_code(prior, clips, given).bits_per_code

    def _batches(self, rows: np.ndarray, size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(rows), size):
            codes = self._read(rows[first : first + size])
            yield {name: torch.from_numpy(array).long().to(device) for name, array in codes.items()}

    def _counted(self) -> Iterator[dict[str, Tensor]]:
        """Training clips for what is counted, on the CPU."""
        some = self.rows[:: max(1, len(self.rows) // MAX_COUNTED)]
        return self._batches(some, ROWS_AT_ONCE, torch.device("cpu"))

    @cached_property
    def _baselines(self) -> dict[str, float]:
        cpu, spec = torch.device("cpu"), self.cache.spec
        predicts = tuple(name for name in self.prior.predicts if name not in self.tracks)
        baselines = {
            "bits_per_code_frequency": UnigramPrior(UnigramConfig(predicts), spec),
            "bits_per_code_previous_step": TemporalBigramPrior(TemporalBigramConfig(predicts), spec),
        }
        for baseline in baselines.values():
            baseline.fit(self._counted())
        return {name: self._bits(baseline, cpu) for name, baseline in baselines.items()}


def _controls(tracks: Sequence[str]) -> list[list[str]]:
    """The tracks of each control: an end frame has two."""
    alone = [[name] for name in tracks if name not in (END, END_STEP)]
    return [*alone, [END, END_STEP]] if END in tracks else alone


def drawn_subsets(drawn: np.ndarray, share: float, members: int) -> np.ndarray:
    """Numbers `drawn` [n] in (0, 1) -> bool [n, members]: `share` of the rows have some members, the others none.

    All subsets are equally likely, so that a prior of several controls learns to do without any of them.
    """
    subsets = 2**members - 1
    chosen = np.where(drawn < share, 1 + np.minimum(drawn / share * subsets, subsets - 1).astype(np.int64), 0)
    return (chosen[:, None] >> np.arange(members) & 1).astype(bool)


def _require_null_codes(prior: Prior, drop_controls: float) -> None:
    lacking = [name for name in prior.control_streams if prior.spec.stream(name).unconditional_token is None]
    if lacking or not prior.control_streams:
        raise ConfigError(
            f"training.drop_controls (={drop_controls}) needs controls with null codes; this prior has tracks "
            f"{prior.control_streams}, without null code {lacking}: set it to 0, or set prior.controls"
        )
