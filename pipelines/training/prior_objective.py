"""Training a prior on a token cache: minimises nats/code and reports bits/code, beside those of counted baselines.

What is given in training is not learned, so a prior that is to begin videos, or to continue those of any number of
frames, has none given there (CCVS equation 8); validation may give more. Control streams that a prior of frames
predicts count in the loss (the same equation), but are given in validation: bits/code are of levels only. A control
prior is validated on its control streams.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from tokenreel.config import to_mapping
from tokenreel.counter_rng import uniforms
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import sample_sources, write_token_file
from tokenreel.data.spec import END, END_STEP
from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.prior_clips import PriorClips, default_given_frames
from tokenreel.pipelines.decoding.tokens_to_video import decode_tokens
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.objective import Objective, held_out_alarms, held_out_counts, part_of
from tokenreel.pipelines.training.optimizers import build_optimizer
from tokenreel.pipelines.training.tracker_pictures import film_strips
from tokenreel.priors.base import Prior
from tokenreel.priors.layers.recompute import recompute_activations
from tokenreel.priors.sampling.video import sample, with_given_steps
from tokenreel.sample_random import SampleRandom
from tokenreel.tokenizers.base import VideoTokenizer

ENDS, DROPS = 0, 1  # numbers of the random numbers that a clip has


@dataclass(frozen=True)
class PriorTrainingConfig(TrainingConfig):
    """The `training:` section of train-prior."""

    given_frames: int | None = None  # in training, where their tokens are not learned; None: 0, or those encoded alone
    validation_given_frames: int | None = None  # in validation and samples; None: those of training, but at least 1
    drop_controls: float = 0.0  # fraction of training clips without some or all controls, as guidance requires
    recompute_activations: bool = False  # keep those between blocks only: less memory, a quarter more time

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_controls < 1:
            raise ConfigError(f"drop_controls (={self.drop_controls}) must be in [0, 1)")
        trained, scored = self.given_frames, self.validation_given_frames
        if trained is not None and scored is not None and scored < trained:
            raise ConfigError(
                f"validation_given_frames (={scored}) must be at least given_frames (={trained}): tokens given in "
                "training are not learned"
            )


class PriorObjective(Objective):
    """Trains on the `train` rows of `cache`; of whole videos these are the clips at every first frame."""

    updates: tuple[str, ...] = ("prior",)
    best_score = "bits_per_code"
    tokenizer: VideoTokenizer | None = None  # that of the cache, on the device, to show samples in trackers
    predicted_per_clip: float  # tokens, the mean over the clips of the step; only with drop_controls

    def __init__(self, prior: Prior, cache: TokenCache, config: PriorTrainingConfig, device: torch.device) -> None:
        if not any(parameter.requires_grad for parameter in prior.parameters()):
            raise ConfigError(
                f"prior.type (={prior.config.type}) has no weights to train; every summary of train-prior has the "
                "bits/code of the counted priors, unigram and temporal-bigram: choose another type"
            )
        self.prior = prior
        self.networks = {"prior": prior}
        self.cache = cache
        self.config = config
        self.device = device
        self.rows = cache.rows("train", stride=1)
        has_held_out = any(video.get("split") == "validation" for video in cache.plan["videos"])
        self.held_out = cache.rows("validation")[: config.validation_clips] if has_held_out else self.rows[:0]
        self.data_identity = f"cache {cache.cache_id} of the tokenizer {cache.code_fingerprint}"
        self.control_streams = prior.control_streams
        self.controls = _streams_by_control(self.control_streams)
        trained = prior.spec.frames_encoded_alone if config.given_frames is None else config.given_frames
        self.given = self._given("given_frames", trained)
        prior.trained_given_frames = trained
        scored, default = config.validation_given_frames, default_given_frames(prior)
        scored = default if scored is None else scored
        self._given("validation_given_frames", scored)
        self.clips = PriorClips(prior, cache, scored)
        self.training_clips = PriorClips(prior, cache, trained or default)
        if config.drop_controls:
            _require_unconditional_tokens(prior, config.drop_controls)
        if config.recompute_activations and not recompute_activations(prior):
            raise ConfigError(
                f"training.recompute_activations: a prior of type {prior.config.type} has no blocks to compute again"
            )
        prior.code_fingerprint = cache.code_fingerprint
        prior.trained_without_controls = config.drop_controls > 0
        prior.prepare(self.training_clips.counted())

    def begin_step(self, step: int) -> None:
        """Counts what is predicted of the step's clips, in all processes and micro-steps: it depends on which controls
        they lack.
        """
        if not self.config.drop_controls:
            return
        dropped = self._dropped(step * self.config.batch + np.arange(self.config.batch))
        free = [int((self.prior.given_streams(streams) & ~self.given).sum()) for streams in self.controls]
        self.predicted_per_clip = int((~self.given).sum()) - float((dropped @ np.array(free, np.int64)).mean())

    def optimizers(self) -> dict[str, Optimizer]:
        return {"prior": build_optimizer(self.config, [self.prior])}

    def batch(self, rows: np.ndarray, samples: np.ndarray) -> dict[str, Tensor]:
        """The end step of each clip, and which controls it lacks, are sampled from (seed, sample)."""
        clips = self.training_clips.read(rows, uniforms(self.config.seed, samples, np.array([ENDS]))[:, 0])
        tokens = {name: torch.from_numpy(indices).long().to(self.device) for name, indices in clips.items()}
        if not self.config.drop_controls:
            return tokens
        by_control = torch.from_numpy(self._dropped(samples)).to(self.device).unbind(1)
        for streams, dropped in zip(self.controls, by_control, strict=True):
            tokens = self._drop_streams(streams, tokens, dropped)
        return tokens

    def prefetch(self, rows: np.ndarray, samples: np.ndarray) -> None:
        """Nothing to do: the cache is mapped into memory."""

    def losses(self, update: str, batch: dict[str, Tensor], random: SampleRandom) -> dict[str, Tensor]:
        given = self.given.to(self.device).expand(len(next(iter(batch.values()))), -1)
        if self.config.drop_controls:  # an unconditional token is never predicted
            given = given | (self.prior.flatten(batch) == self.prior.codebook_sizes().to(self.device))
        loss = self.prior.loss(batch, given, random)
        if self.config.drop_controls:  # the mean over the step's tokens, of which this batch has more or fewer
            loss = loss * ((~given).sum() / (self.predicted_per_clip * len(given)))
        return {"nats_per_code": loss}

    def in_other_units(self, losses: Mapping[str, float]) -> dict[str, float]:
        return {"bits_per_code": losses["nats_per_code"] / math.log(2)}

    def score(self, part: int, parts: int) -> dict[str, float]:
        """bits/code of the prior by name, times the share of the part in the held-out clips."""
        rows = part_of(self.held_out, part, parts)
        if not len(rows):
            return {}
        scores = {"bits_per_code": self._bits(self.prior, rows, self.device)}
        if self.config.drop_controls:
            scores["bits_per_code_without_controls"] = self._bits(self.prior, rows, self.device, with_controls=False)
        return {name: bits * len(rows) / len(self.held_out) for name, bits in scores.items()}

    def validate(self, parts: Sequence[dict[str, float]]) -> dict[str, float]:
        """bits/code of the prior, also in nats, and of the counted baselines, for the same clips and given frames."""
        videos = self.cache.source_ids(self.held_out)
        self.alarms = held_out_alarms(videos)
        if not len(self.held_out):
            return {}
        scores = {name: sum(part[name] for part in parts if part) for name in parts[0]}
        scores |= {"nats_per_code": scores["bits_per_code"] * math.log(2), "given_frames": self.clips.given_frames}
        return {**scores, **self._baselines, **held_out_counts(videos)}

    def write_samples(self, folder: Path) -> dict[str, np.ndarray]:
        """Writes a token file for `tokenreel decode`: continuations of the given frames of held-out clips.

        Controls, the end frame among them, and levels that other priors predict are those of the clips. A control
        prior writes nothing. Pictures show them below the decoded clips, if there is a tokenizer.
        """
        rows = self.held_out[: self.config.sample_clips]
        if not len(rows) or not self.prior.predicts_frames:
            return {}
        (batch,) = self.clips.batches(rows, len(rows), self.device)
        given = self.clips.given | self.prior.given_streams(self.control_streams)
        sampled = sample(self.prior, batch, given, seed=self.config.seed).tokens
        sampled = {name: with_given_steps(self.cache.spec, name, tokens, batch) for name, tokens in sampled.items()}
        true = self.cache.read(rows)
        tokens = {**true, **{name: indices.cpu().numpy() for name, indices in sampled.items()}}
        sources = sample_sources(self.cache, rows, self.config.seed)
        provenance: dict[str, Any] = {"prior": to_mapping(self.prior.config), "given_frames": self.clips.given_frames}
        if self.control_streams:
            provenance["given_controls"] = [name for name in self.control_streams if name != END_STEP]
        write_token_file(folder, self.cache.spec, tokens, self.cache.code_fingerprint, sources, provenance)
        if self.tokenizer is None:
            return {}
        videos = zip(decode_tokens(self.tokenizer, true), decode_tokens(self.tokenizer, tokens), strict=True)
        return {f"samples/clip_{number:02d}": film_strips(*pair) for number, pair in enumerate(videos)}

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.prior.about = about
        self.prior.save_pretrained(folder)

    def _given(self, setting: str, frames: int) -> Tensor:
        """bool [L]: what so many given frames give. Raises ConfigError where they cannot be, or leave nothing to
        predict.
        """
        try:
            given = self.prior.given_frames(frames)
        except ConfigError as error:
            raise ConfigError(f"training.{setting}: {error}") from error
        if (given | self.prior.given_streams(self.control_streams)).all():
            raise ConfigError(
                f"training.{setting} (={frames}) leaves nothing to predict in clips of {self.prior.spec.frames} frames"
            )
        return given

    def _dropped(self, samples: np.ndarray) -> np.ndarray:
        """bool [n, controls]: which controls the clips lack."""
        uniform = uniforms(self.config.seed, samples, np.array([DROPS]))[:, 0]
        return sample_subsets(uniform, self.config.drop_controls, len(self.controls))

    def _drop_streams(self, streams: Sequence[str], tokens: dict[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
        """`tokens` with unconditional tokens for `streams` in the `dropped` rows, bool [n]."""
        rows, spec = dropped.view(-1, 1, 1, 1, 1), self.prior.spec
        return tokens | {name: tokens[name].masked_fill(rows, spec.stream(name).codebook_size) for name in streams}

    def _bits(self, prior: Prior, rows: np.ndarray, device: torch.device, with_controls: bool = True) -> float:
        """bits/code of the levels of `rows` after the given frames; all control streams are given."""
        change = (lambda batch: batch) if with_controls else self._without_controls
        return self.clips.score(prior, rows, device, change).bits_per_code

    def _without_controls(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        dropped = torch.ones(1, dtype=torch.bool, device=next(iter(tokens.values())).device)
        return self._drop_streams(self.control_streams, tokens, dropped)

    @cached_property
    def _baselines(self) -> dict[str, float]:
        cpu, baselines = torch.device("cpu"), self.clips.baselines()
        return {f"bits_per_code_{name}": self._bits(prior, self.held_out, cpu) for name, prior in baselines.items()}


def _streams_by_control(streams: Sequence[str]) -> list[list[str]]:
    """The names of each control's streams: an end frame has two, all others one."""
    single = [[name] for name in streams if name not in (END, END_STEP)]
    return [*single, [END, END_STEP]] if END in streams else single


def sample_subsets(uniform: np.ndarray, p: float, size: int) -> np.ndarray:
    """Uniform numbers in (0, 1), [n] -> random subsets, bool [n, size]: with probability p not empty.

    All non-empty subsets are equally likely, so that a prior with several controls learns to work without any of them.
    """
    count = 2**size - 1
    subsets = np.where(uniform < p, 1 + np.minimum(uniform / p * count, count - 1).astype(np.int64), 0)
    return (subsets[:, None] >> np.arange(size) & 1).astype(bool)


def _require_unconditional_tokens(prior: Prior, drop_controls: float) -> None:
    lacking = [name for name in prior.control_streams if prior.spec.stream(name).unconditional_token is None]
    if lacking or not prior.control_streams:
        raise ConfigError(
            f"training.drop_controls (={drop_controls}) requires controls with an unconditional token; this prior "
            f"has the control streams {prior.control_streams}, those without one are {lacking}: set it to 0, or set "
            "prior.controls"
        )
