"""Training a video tokenizer with its own losses; validated by reconstructions of held-out clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tokenreel.data.clips import ClipReader
from tokenreel.data.order import evenly_spaced
from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.plan import Plan
from tokenreel.data.video.writer import write_video
from tokenreel.errors import ConfigError
from tokenreel.metrics.codes import CodeCounter
from tokenreel.metrics.reconstruction import MEAN_IMAGE_CLIPS, ReconstructionScores, mean_image
from tokenreel.pipelines.decoding.tokens_to_video import frame_rate_of
from tokenreel.pipelines.training.clip_objective import ClipObjective, ClipTrainingConfig
from tokenreel.pipelines.training.initial_codebooks import initialise_codebooks
from tokenreel.pipelines.training.objective import held_out_alarms, held_out_counts, part_of
from tokenreel.pipelines.training.optimizers import build_optimizer
from tokenreel.pipelines.training.tracker_pictures import film_strips
from tokenreel.sample_random import SampleRandom
from tokenreel.tokenizers.base import VideoTokenizer

TOKENS_PER_CODE = 16  # that are counted, of training clips where held-out clips have fewer
MAX_COUNTED_CLIPS = 512  # of these training clips


@dataclass(frozen=True)
class TokenizerTrainingConfig(ClipTrainingConfig):
    """The `training:` section of train-tokenizer."""

    clip_frames: int | None = None  # of training clips that begin at any frame; None: data.frames

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_frames is not None and not self.random_start:
            raise ConfigError(
                f"clip_frames (={self.clip_frames}) needs random_start, or only the first frames of clips would be "
                "learned: set random_start to true"
            )


@dataclass(frozen=True)
class _Scored:
    """What is known of a part of the held-out clips."""

    scores: ReconstructionScores
    counters: dict[str, CodeCounter]  # by level

    def merge(self, other: _Scored) -> None:
        self.scores.merge(other.scores)
        for name, counter in self.counters.items():
            counter.merge(other.counters[name])


class TokenizerObjective(ClipObjective):
    """Validated by reconstructions."""

    config: TokenizerTrainingConfig
    updates: tuple[str, ...] = ("tokenizer",)
    best_score = "psnr"
    best_is_highest = True

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        plan: Plan,
        clips: ClipReader,
        config: TokenizerTrainingConfig,
        device: torch.device,
    ) -> None:
        super().__init__(plan, clips, config, device)
        self.tokenizer = tokenizer
        self.networks: dict[str, nn.Module] = {"tokenizer": tokenizer}
        if config.clip_frames is not None:
            _require_clip_frames(tokenizer, config.clip_frames)

    def initialise(self, batches: Sequence[Any], randoms: Sequence[SampleRandom]) -> None:
        def forward() -> None:
            for video, random in zip(batches, randoms, strict=True):
                self.tokenizer(video, random.restarted())

        initialise_codebooks(self.tokenizer, forward)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"tokenizer": build_optimizer(self.config, [self.tokenizer])}

    @property
    def training_frames(self) -> int:
        return self.config.clip_frames or self.tokenizer.spec.frames

    def batch(self, rows: np.ndarray, samples: np.ndarray) -> Any:
        return to_model(self.clips.read(rows, *self.starts(rows, samples)), self.device)

    def losses(self, update: str, batch: Any, random: SampleRandom) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.tokenizer(batch, random).losses
        return losses

    def score(self, part: int, parts: int) -> _Scored | None:
        """None if nothing is held out."""
        if not len(self.held_out):
            return None
        rows = part_of(self.held_out, part, parts)
        self.clips.prefetch(rows)
        scores = ReconstructionScores(self._mean_image)
        counters = {s.name: CodeCounter(s.codebook_size, s.codebooks) for s in self.tokenizer.spec.levels}
        for row in rows:
            clip = self.clips.read(np.array([row]))
            tokens = self.tokenizer.encode(to_model(clip, self.device))
            scores.update(clip, to_frames(self.tokenizer.decode(tokens)))
            for name, counter in counters.items():
                counter.update(tokens[name].cpu().numpy())
        for row in part_of(self._counted_rows, part, parts):
            tokens = self.tokenizer.encode(to_model(self.clips.read(np.array([row])), self.device))
            for name, counter in counters.items():
                counter.update(tokens[name].cpu().numpy())
        return _Scored(scores, counters)

    def validate(self, parts: Sequence[_Scored | None]) -> dict[str, float]:
        """PSNR (dB), SSIM and gain over the mean image of held-out clips; usage and perplexity of each level's least
        used codebook, with an alarm if they are low, counted on training clips too where few clips are held out.
        """
        few = self.alarms = held_out_alarms(self.held_out_videos)
        if not len(self.held_out):
            return {}
        first, *others = filter(None, parts)
        for part in others:
            first.merge(part)
        worst = {name: min(counter.usage(), key=lambda use: use.used) for name, counter in first.counters.items()}
        advice = self.tokenizer.collapse_advice
        alarms = (f"level {name!r}: {use.alarm}; {advice}" for name, use in worst.items() if use.alarm)
        self.alarms = (*alarms, *few)
        usage = {f"{name}/codebook_usage": use.used for name, use in worst.items()}
        perplexity = {f"{name}/perplexity": use.perplexity for name, use in worst.items()}
        return {**first.scores.compute(), **usage, **perplexity, **held_out_counts(self.held_out_videos)}

    def write_samples(self, folder: Path) -> dict[str, np.ndarray]:
        """Writes held-out clips, each beside its reconstruction, as `clip_00.mp4`, ...; in pictures it is below it."""
        pictures = dict[str, np.ndarray]()
        rate = frame_rate_of(self.tokenizer)
        for number, row in enumerate(self.held_out[: self.config.sample_clips]):
            clip = self.clips.read(np.array([row]))
            decoded = to_frames(self.tokenizer.decode(self.tokenizer.encode(to_model(clip, self.device))))
            write_video(folder / f"clip_{number:02d}.mp4", np.concatenate([clip[0], decoded[0]], axis=2), rate)
            pictures[f"reconstructions/clip_{number:02d}"] = film_strips(clip[0], decoded[0])
        return pictures

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.tokenizer.about = about
        self.tokenizer.save_pretrained(folder)

    @cached_property
    def _counted_rows(self) -> np.ndarray:
        """Training clips that are counted besides the held-out ones."""
        levels = self.tokenizer.spec.levels
        clips = max(-(-TOKENS_PER_CODE * level.codebook_size // math.prod(level.grid)) for level in levels)
        return evenly_spaced(self.rows, min(MAX_COUNTED_CLIPS, max(0, clips - len(self.held_out))))

    @cached_property
    def _mean_image(self) -> np.ndarray:
        rows = self.rows[:: max(1, len(self.rows) // MEAN_IMAGE_CLIPS)]
        return mean_image(self.clips.read(np.array([row]))[0] for row in rows)


def _require_clip_frames(tokenizer: VideoTokenizer, frames: int) -> None:
    """Raises ConfigError unless the tokenizer can learn its tokens from clips of so many frames."""
    least, most = tokenizer.min_training_frames, tokenizer.spec.frames
    if not least <= frames <= most:
        allowed = f"{most}, all frames of a clip," if least == most else f"between {least} and {most}"
        raise ConfigError(
            f"training.clip_frames (={frames}) must be {allowed} for this tokenizer "
            f"({tokenizer.config.type}, time {tokenizer.spec.time})"
        )
    for level in tokenizer.spec.levels:
        tokenizer.spec.steps_of_frames(frames, level, "training.clip_frames")
