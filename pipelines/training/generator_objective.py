"""Training a generator of pixels against its discriminators.

Each step updates the discriminators, once or more, then the generator. Discriminators are saved in checkpoints, but not
exported. What is validated, sampled and exported is one copy, made by `for_export` of the averaged weights, with
normalisation statistics of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from tokenreel.data.clips import ClipReader
from tokenreel.data.order import SampleOrder
from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.plan import NO_LABEL, Plan
from tokenreel.data.video.writer import write_video
from tokenreel.decoders.generators.base import Adversary, VideoGenerator
from tokenreel.decoders.generators.conditions import Conditions, class_weights
from tokenreel.decoders.generators.noise import sample_noise
from tokenreel.pipelines.common.class_labels import class_indices
from tokenreel.pipelines.decoding.tokens_to_video import frame_rate_of
from tokenreel.pipelines.training.clip_objective import ClipObjective
from tokenreel.pipelines.training.distributed import seed_from
from tokenreel.pipelines.training.generator_config import STATISTICS_BATCH, GeneratorTrainingConfig
from tokenreel.pipelines.training.generator_scores import (
    DiscriminatorWatch,
    GeneratorScores,
    collapse_alarms,
    has_frames,
)
from tokenreel.pipelines.training.objective import held_out_alarms, held_out_counts, part_of
from tokenreel.pipelines.training.optimizers import build_optimizer, frozen
from tokenreel.pipelines.training.tracker_pictures import film_strips
from tokenreel.replicas import alone
from tokenreel.sample_random import SampleRandom

GENERATOR, DISCRIMINATORS = "generator", "discriminators"  # networks, and their updates
STATISTICS_SEED = 1  # beside that of the run, whose own noise is that of samples


@dataclass
class GeneratorBatch:
    """True clips as discriminators see them, and their conditions."""

    real: Tensor  # [B, c, T, H, W]
    conditions: Conditions
    fake: Tensor | None = None  # generated in the discriminators' update, for that of the generator (shared_clips)


class GeneratorObjective(ClipObjective):
    """Held-out clips of classes that no training clip has are not scored."""

    config: GeneratorTrainingConfig

    def __init__(
        self,
        generator: VideoGenerator,
        adversary: Adversary,
        plan: Plan,
        clips: ClipReader,
        config: GeneratorTrainingConfig,
        device: torch.device,
    ) -> None:
        super().__init__(plan, clips, config, device)
        self.generator = generator
        self.spec = generator.spec
        self.adversary = adversary
        self.watch = DiscriminatorWatch()
        self.networks = {GENERATOR: generator, DISCRIMINATORS: adversary, "watch": self.watch}
        self.updates = (DISCRIMINATORS,) * config.discriminator_updates + (GENERATOR,)
        self.average_start = config.ema_start
        self._label = class_indices(plan, self.spec.classes)
        self._unscored = 0
        if self.spec.classes:
            rows = plan.rows("validation")
            known = rows[self._label[rows] != NO_LABEL]
            self._unscored = len(rows) - len(known)
            self.held_out = known[: config.validation_clips]
            self.held_out_videos = plan.video[self.held_out].tolist()
        self._exported: VideoGenerator | None = None

    @property
    def update_batches(self) -> tuple[int, ...]:
        """Each update of the discriminators has one of its own; that of the generator has the conditions of the first,
        with other noise.
        """
        return (*range(self.config.discriminator_updates), 0)

    @property
    def averaged_networks(self) -> tuple[str, ...]:
        return (GENERATOR,)

    def begin_step(self, step: int) -> None:
        self._exported = None

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            GENERATOR: build_optimizer(self.config, [self.generator]),
            DISCRIMINATORS: build_optimizer(self.config.of_discriminators, [self.adversary]),
        }

    def batch(self, rows: np.ndarray, samples: np.ndarray) -> GeneratorBatch:
        clips, labels = self._read(rows, *self.starts(rows, samples))
        video = to_model(clips, self.device)
        return GeneratorBatch(self.generator.own_channels(video), self._conditions(video, labels))

    def losses(self, update: str, batch: GeneratorBatch, random: SampleRandom) -> dict[str, Tensor]:
        losses = self._discriminator_losses if update == DISCRIMINATORS else self._generator_losses
        return {f"{update}/{name}": loss for name, loss in losses(batch, random).items()}

    def _discriminator_losses(self, batch: GeneratorBatch, random: SampleRandom) -> dict[str, Tensor]:
        # In training mode, as in its own update, so statistics of these batches enter the running ones too. They are
        # of the same distribution, and `set_statistics` replaces them where a generator has standing statistics.
        with nullcontext() if self.config.shared_clips else torch.no_grad():
            fake = self._generate(batch.conditions, random)
        if self.config.shared_clips:
            batch.fake = fake
        return self.adversary.discriminator_losses(batch.real, fake.detach(), batch.conditions, random)

    def _generator_losses(self, batch: GeneratorBatch, random: SampleRandom) -> dict[str, Tensor]:
        fake = self._generate(batch.conditions, random) if batch.fake is None else batch.fake
        batch.fake = None  # its graph is freed by the backward pass
        with frozen(self.adversary):
            return self.adversary.generator_losses(fake, batch.conditions, random)

    def _generate(self, conditions: Conditions, random: SampleRandom) -> Tensor:
        fake: Tensor = self.generator(random.randn(self.spec.noise), conditions)
        return fake

    def check_losses(self, first_step: int, losses: Sequence[Mapping[str, float]]) -> None:
        of_discriminators = [
            sum(loss for name, loss in step.items() if name.startswith(f"{DISCRIMINATORS}/")) for step in losses
        ]
        self.watch.add(first_step, of_discriminators)

    def score(self, part: int, parts: int) -> GeneratorScores | None:
        """None if nothing is held out. Clip n has the noise of sample n, whatever the number of parts."""
        if not len(self.held_out):
            return None
        model, scores = self._evaluated(), GeneratorScores(self.spec)
        numbers = part_of(np.arange(len(self.held_out)), part, parts)
        self.clips.prefetch(self.held_out[numbers])
        for number in numbers.tolist():
            clip, sampled = self._true_and_sampled(model, number)
            scores.update(clip, sampled)
        return scores

    def validate(self, parts: Sequence[GeneratorScores | None]) -> dict[str, float]:
        """The scores of GeneratorScores, and how often the discriminators have won, with alarms."""
        self.alarms = (*self.watch.alarms, *self._held_out_alarms())
        if not len(self.held_out):
            return {}
        first, *others = filter(None, parts)
        for part in others:
            first.merge(part)
        scores = first.compute()
        self.alarms = (*collapse_alarms(scores, len(self.held_out)), *self.alarms)
        return {**scores, "discriminators_won": self.watch.share, **held_out_counts(self.held_out_videos)}

    def write_samples(self, folder: Path) -> dict[str, np.ndarray]:
        """With given frames: held-out clips, each beside a generated one of its conditions, as `clip_00.mp4`, ..., in
        pictures above it. Else always the same noises, of the classes in turn, as `sample_00.mp4`, ...
        """
        model, rate, count = self._evaluated(), frame_rate_of(self.generator), self.config.sample_clips
        if not has_frames(self.spec):
            in_turn = [self._conditions(None, [number % max(1, len(self.spec.classes))]) for number in range(count)]
            videos = [self._sample(model, number, conditions) for number, conditions in enumerate(in_turn)]
            for number, video in enumerate(videos):
                write_video(folder / f"sample_{number:02d}.mp4", video, rate)
            return {"samples": film_strips(*videos)}
        pictures = dict[str, np.ndarray]()
        for number in range(min(count, len(self.held_out))):
            clip, sampled = self._true_and_sampled(model, number)
            write_video(folder / f"clip_{number:02d}.mp4", np.concatenate([clip, sampled], axis=2), rate)
            pictures[f"samples/clip_{number:02d}"] = film_strips(clip, sampled)
        return pictures

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        model = self._evaluated()
        model.about = about
        model.save_pretrained(folder)

    def _read(
        self, rows: np.ndarray, firsts: np.ndarray | None = None, frames: int | None = None
    ) -> tuple[np.ndarray, list[int]]:
        """Clips uint8 [n, T, H, W, 3] and the indices of their classes, [n]."""
        clips, read = self.clips.read_with_rows(rows, firsts, frames)
        labels = self._label[read]
        return clips, np.where(labels == NO_LABEL, self._label[rows], labels).tolist()

    def _conditions(self, video: Tensor | None, labels: list[int]) -> Conditions:
        """Of clips [B, 3, T, H, W], of which only given frames and the end frame matter; None where there are none."""
        given, end = self.spec.given_frames, self.spec.end_frame
        return Conditions(
            given=video[:, :, :given] if video is not None and given else None,
            end=video[:, :, -1] if video is not None and end else None,
            classes=class_weights(labels, self.spec).to(self.device) if self.spec.classes else None,
        )

    def _evaluated(self) -> VideoGenerator:
        """The model that is exported, made once after a step, in every process alike."""
        if self._exported is None:
            self._exported = self.generator.for_export()
            if self.config.statistics_batches:
                with alone():  # after a signal the main process exports while the others wait
                    self._exported.set_statistics(self._statistics_batches())
                self._exported.eval()
        return self._exported

    def _statistics_batches(self) -> Iterator[tuple[Tensor, Conditions]]:
        """Noise of a seed, with the conditions of the first clips in the order of training."""
        seed = seed_from(self.config.seed, STATISTICS_SEED)
        for number, (frames, labels) in enumerate(self._statistics_clips):
            samples = np.arange(number * STATISTICS_BATCH, (number + 1) * STATISTICS_BATCH)
            video = None if frames is None else to_model(frames, self.device)
            noise = sample_noise(seed, samples, self.spec.noise).to(self.device)
            yield noise, self._conditions(video, labels)

    @cached_property
    def _statistics_clips(self) -> list[tuple[np.ndarray | None, list[int]]]:
        """By batch: given frames and end frame, uint8 [B, n, H, W, 3], kept so that a thousand clips are decoded once
        and not for each validation; and the indices of the classes.
        """
        batches, known = self.config.statistics_batches, [*range(self.spec.given_frames), *[-1] * self.spec.end_frame]
        rows = SampleOrder(self.rows, self.config.seed).rows(0, batches * STATISTICS_BATCH).reshape(batches, -1)
        if not known:
            return [(None, self._label[part].tolist()) for part in rows]
        read = (self._read(part) for part in rows)
        return [(clips[:, known], labels) for clips, labels in read]

    def _true_and_sampled(self, model: VideoGenerator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A held-out clip, and one of the same conditions with the noise of sample `number`, uint8 [T, H, W, 3]."""
        clips, labels = self._read(self.held_out[[number]])
        conditions = self._conditions(to_model(clips, self.device), labels)
        return clips[0], self._sample(model, number, conditions)

    def _sample(self, model: VideoGenerator, number: int, conditions: Conditions) -> np.ndarray:
        """uint8 [T, H, W, 3]. One at a time, as in another batch it might round otherwise."""
        noise = sample_noise(self.config.seed, np.array([number]), self.spec.noise)
        return to_frames(model.generate(noise.to(self.device), conditions))[0]

    def _held_out_alarms(self) -> tuple[str, ...]:
        few = held_out_alarms(self.held_out_videos)
        if not self._unscored:
            return few
        return (f"{self._unscored} held-out clips are not scored: no training video has their class", *few)
