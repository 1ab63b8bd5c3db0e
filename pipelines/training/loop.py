"""The training loop of all systems, on Accelerate.

Accelerate provides devices, processes, collectives and trackers. Precision is torch's autocast, because Accelerate
fixes it for a whole process, which may train a tokenizer and then a prior. Data order, schedule and random numbers are
functions of the step, so that a run that was killed continues from its checkpoint exactly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from tokenreel.data.cache.files import staged_folder
from tokenreel.data.order import SampleOrder
from tokenreel.errors import CheckpointError, UserError
from tokenreel.pipelines.common.device import peak_memory, ran_out_of_memory
from tokenreel.pipelines.common.progress import Progress
from tokenreel.pipelines.training.best_model import BestModel
from tokenreel.pipelines.training.checkpoint import Checkpoint, checkpoint_path, newest_checkpoint, write_checkpoint
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.distributed import (
    Processes,
    StopVote,
    average_gradients,
    clip_gradients,
    require_equal_replicas,
    seed_from,
)
from tokenreel.pipelines.training.interrupt import Interrupt
from tokenreel.pipelines.training.losses import Diverged, LossRecord, NonFiniteLoss
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.optimizers import learning_rate_factor, set_learning_rate
from tokenreel.pipelines.training.precision import mixed_precision
from tokenreel.pipelines.training.run_folder import MetricsLog, RunFolder
from tokenreel.pipelines.training.state import TrainingState
from tokenreel.pipelines.training.tracker_pictures import log_pictures
from tokenreel.replicas import micro_steps
from tokenreel.sample_random import SampleRandom

GRADIENT_NORM = "gradient_norm_"  # before an update's name

logger = logging.getLogger(__name__)


class Trainer:
    """Trains an objective from the run folder's checkpoint up to `config.steps`."""

    def __init__(
        self, objective: Objective, config: TrainingConfig, folder: RunFolder, accelerator: Accelerator
    ) -> None:
        self.objective = objective
        self.config = config
        self.folder = folder
        self.accelerator = accelerator
        self.processes = Processes(accelerator)
        self.micro_batch = config.micro_batch(accelerator.num_processes)
        self.batches_per_step = 1 + max(objective.update_batches)
        self.clips_per_step = self.batches_per_step * config.batch
        self.order = SampleOrder(objective.rows, config.seed)
        self.state = TrainingState(objective, config, accelerator.device)
        self.record = LossRecord(accelerator)
        self.shown: dict[str, str] = {}  # beside the count of steps: the loss of the last log, the last score
        self.best = BestModel(folder.best, objective.best_score, objective.best_is_highest)
        if folder.resume_from is not None:
            self.order.resume(folder.resume_from.state.get("order", {}))
            self.state.load(folder.resume_from.step, folder.resume_from.tensors)

    def run(self) -> dict[str, Any]:
        """Trains, validates and exports. Returns the summary.

        Raises NonFiniteLoss and Diverged, after exporting the model of the newest checkpoint, UserError where memory or
        the disk is full, and KeyboardInterrupt after a signal, once a checkpoint is written.
        """
        started, first, vote = time.perf_counter(), self.state.step, StopVote(self.processes)
        self.log = self.processes.in_main(lambda: MetricsLog(self.folder.metrics, first))
        launched = not self.processes.alone
        with Interrupt(launched) as interrupt, Progress(self.config.steps, "train", "step", done=first) as bar:
            scores = self._evaluate() if first else {}  # the run may have been killed in an evaluation
            while self.state.step < self.config.steps:
                with _out_of_memory(
                    "training: in a new folder lower training.batch, or raise training.accumulate at the same batch"
                ):
                    self._train_step()
                if vote.ask(interrupt.requested):
                    self._stop()
                scores = self._run_periodic_tasks() or scores
                bar.advance(1, **self.shown)
            vote.close()
        self._export(scores)
        for alarm in self.objective.alarms:
            logger.warning(alarm)
        seconds, clips = time.perf_counter() - started, (self.state.step - first) * self.clips_per_step
        return {
            "out": str(self.folder.path),
            "steps": self.state.step,
            **({"resumed_from_step": first} if first else {}),
            "clips": clips,
            "seconds": round(seconds, 1),
            "clips_per_second": round(clips / seconds, 1),
            "parameters": self.state.count_parameters(),
            **scores,
            **self.best.summary(),
            **({"alarms": list(self.objective.alarms)} if self.objective.alarms else {}),
        }

    def estimate(self) -> dict[str, Any]:
        """What the run would take, measured in the second of two steps. Writes nothing; do not train afterwards."""
        self._train_step()
        started = time.perf_counter()
        self._train_step()
        self.record.take(self.state.step)  # synchronizes with the device
        seconds, clips = time.perf_counter() - started, self.config.steps * self.clips_per_step
        checkpoint = sum(t.numel() * t.element_size() for file in self.state.tensors().values() for t in file.values())
        return {
            "parameters": self.state.count_parameters(),
            "training_clips": len(self.objective.rows),
            "clips": clips,
            "epochs": round(clips / len(self.objective.rows), 2),
            "seconds_per_step": round(seconds, 4),
            "hours": round(seconds * self.config.steps / 3600, 3),
            "memory_gb": round(peak_memory(self.accelerator.device) / 1e9, 2),
            "disk_gb": round(checkpoint * (self.config.keep_checkpoints + 1) / 1e9, 3),
        }

    def _train_step(self) -> None:
        started, losses = time.perf_counter(), dict[str, list[Tensor]]()
        step, micros = self.state.step, range(self.config.accumulate)
        self.objective.begin_step(step)
        read, every = self.objective.batch, range(self.batches_per_step)
        batches = [[read(self._rows(step, m, b), self._samples(step, m, b)) for m in micros] for b in every]
        next_step = [(step + 1, micro, batch) for batch in every for micro in micros]
        following = [np.concatenate([of(*part) for part in next_step]) for of in (self._rows, self._samples)]
        self.objective.prefetch(*following)
        if step == 0:
            self._initialise(batches[self.objective.update_batches[0]])
        for number, update in enumerate(self.objective.updates):
            found = self._update(update, batches[self.objective.update_batches[number]], number)
            for name, loss in found.items():
                losses.setdefault(name, []).append(loss)
            if number == 0:
                self.main_losses = [name for name in found if not name.startswith(GRADIENT_NORM)]
        if self.state.average is not None:
            self.state.average.update(step)
        self.state.step += 1
        means = {name: torch.stack(each).mean() if len(each) > 1 else each[0] for name, each in losses.items()}
        self.record.add(means, time.perf_counter() - started)  # of the updates that share a name

    def _initialise(self, batches: list[Any]) -> None:
        """Lets the objective set from the first step's batch what is initialised from data."""
        randoms = [self._random(0, micro) for micro in range(len(batches))]
        self._seed(0)
        precision = mixed_precision(self.accelerator.device, self.config.precision)
        with torch.no_grad(), precision, micro_steps(range(len(batches)), len(batches)):
            self.objective.initialise(batches, randoms)

    def _update(self, update: str, batches: list[Any], number: int) -> dict[str, Tensor]:
        """Runs the update of that number in the step. Returns its losses, none if the objective skips it."""
        optimizer, losses = self.state.optimizers[update], dict[str, Tensor]()
        set_learning_rate(optimizer, learning_rate_factor(self.config, self.state.step))
        optimizer.zero_grad(set_to_none=True)
        of_batch = self.objective.update_batches[number]
        for micro, batch in enumerate(batches):
            self._seed(number)
            random = self._random(number, micro, of_batch)
            with micro_steps(range(micro, micro + 1), len(batches)):
                self._backward(update, batch, random, losses)
        if losses:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            average_gradients(parameters, self.accelerator)
            losses[f"{GRADIENT_NORM}{update}"] = clip_gradients(parameters, self.config.clip_norm)
            optimizer.step()
        return losses

    def _seed(self, number: int) -> None:
        """Seeds torch's global generator for the update of that number, alike in all processes and micro-steps."""
        torch.manual_seed(seed_from(self.config.seed, self.state.step, number))

    def _random(self, number: int, micro: int, batch: int = 0) -> SampleRandom:
        """Random numbers of the clips of a micro-step of a batch, for the update of that number."""
        samples = self._samples(self.state.step, micro, batch)
        return SampleRandom(seed_from(self.config.seed, number), samples, self.accelerator.device)

    def _rows(self, step: int, micro: int, batch: int = 0) -> np.ndarray:
        """The rows, int64 [n], of `_samples`."""
        return self.order.rows(int(self._samples(step, micro, batch)[0]), self.micro_batch)

    def _samples(self, step: int, micro: int, batch: int = 0) -> np.ndarray:
        """Sample numbers, int64 [n], of this process in a micro-step of a batch: a slice of the common order."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = step * self.clips_per_step + batch * self.config.batch + (micro * processes + rank) * self.micro_batch
        return np.arange(first, first + self.micro_batch)

    def _backward(self, update: str, batch: Any, random: SampleRandom, sums: dict[str, Tensor]) -> None:
        """Adds the gradients of a micro-step to the parameters and its losses to `sums`."""
        with mixed_precision(self.accelerator.device, self.config.precision):
            losses = self.objective.losses(update, batch, random)
        if not losses:
            return
        scaled = {name: loss.float() / self.config.accumulate for name, loss in losses.items()}
        torch.stack(list(scaled.values())).sum().backward()
        for name, loss in scaled.items():
            sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()

    def _stop(self) -> None:
        self._flush()
        self._checkpoint()
        self._export({})
        raise KeyboardInterrupt(
            f"stopped at step {self.state.step}; its checkpoint is in {self.folder.checkpoints}. "
            "Run the same command to resume from it"
        )

    def _run_periodic_tasks(self) -> dict[str, float]:
        """Logs, writes a checkpoint, validates and samples if they are due. Returns the scores if it validated."""
        checkpoint = self._due(self.config.checkpoint_every) or self.state.step == self.config.decay_start
        if checkpoint or self._due(self.config.validate_every) or self._due(self.config.log_every):
            self._flush()
        if checkpoint:  # first, because a validation may be long
            self._checkpoint()
        return self._evaluate()

    def _due(self, every: int) -> bool:
        return self.state.step == self.config.steps or self.state.step % every == 0

    def _evaluate(self) -> dict[str, float]:
        """Validates and samples if they are due. Returns the scores in the main process; none where the log has them,
        except in the last step.
        """
        scores = dict[str, float]()
        if self._due(self.config.validate_every):
            scores = self._score_and_log()
        if self._due(self.config.sample_every):
            self.processes.in_main(self._write_samples)
        return scores

    def _score_and_log(self) -> dict[str, float]:
        by_main = self.log is not None and self.log.last_validation == self.state.step  # the main process has the log
        logged = self.processes.start_any(by_main)()  # by the run that this one resumes
        if logged and self.state.step < self.config.steps:
            return {}
        scores = self._score()
        if (name := self.objective.best_score) in scores:
            self.shown[name] = f"{scores[name]:.4g}"
        if not logged:
            self.processes.in_main(lambda: self._write_scores(scores))
        return scores

    def _score(self) -> dict[str, float]:
        """Validates, each process a part of the held-out clips. Returns the scores in the main process, else none."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        with self._evaluating():
            parts = self.processes.gather(lambda: self.objective.score(rank, count))
            return self.processes.in_main(lambda: self.objective.validate(parts)) or {}

    def _flush(self) -> None:
        """Checks and logs the losses since the last call; called before every checkpoint. Raises NonFiniteLoss and
        Diverged.
        """
        if len(self.record):
            try:
                taken = self.record.take(self.state.step)
                self.objective.check_losses(taken.first_step, taken.steps)
            except (NonFiniteLoss, Diverged) as error:
                raise type(error)(f"{error}. {self._export_newest_checkpoint()}") from error
            losses = taken.means()
            self.shown["loss"] = f"{sum(losses[name] for name in self.main_losses if name in losses):.4g}"
            losses |= self.objective.in_other_units(losses)
            means = {f"train/{name}": value for name, value in losses.items()}
            means["learning_rate"] = self.config.learning_rate * learning_rate_factor(self.config, self.state.step - 1)
            means["clips_per_second"] = taken.steps_per_second * self.clips_per_step
            self.processes.in_main(lambda: self._write(means))

    def _export_newest_checkpoint(self) -> str:
        """Exports the model of the newest intact checkpoint, if there is one. Returns a sentence for the user.

        All processes call this together, because losses are means over processes.
        """
        try:
            checkpoint = newest_checkpoint(self.folder.checkpoints)
        except CheckpointError as error:
            return f"No model is exported: {error}"
        if checkpoint is None:
            due = self.config.checkpoint_every
            return f"No model is exported: there is no checkpoint before step {due} (training.checkpoint_every)"
        self.state.load(checkpoint.step, checkpoint.tensors)
        self._export(self._score())
        return f"{self.folder.path} now holds the model of step {self.state.step}, its newest intact checkpoint"

    def _export(self, scores: dict[str, float]) -> None:
        self.processes.in_main(lambda: self._export_to(self.folder.path, scores))

    def _checkpoint(self) -> None:
        for network in self.state.networks.values():
            require_equal_replicas(network.state_dict(), self.accelerator)
        self.processes.in_main(self._write_checkpoint)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        advice = "validation, samples or export: checkpoints are intact; free memory and run the same command again"
        with _out_of_memory(advice), self.state.evaluating():
            yield

    # The following are called in the main process only.

    def _export_to(self, folder: Path, scores: dict[str, float]) -> None:
        about = {"steps": self.state.step, "batch": self.config.batch, "data": self.objective.data_identity}
        with self._evaluating():
            self.objective.export(folder, {**about, **self.objective.origin, "scores": scores})

    def _write(self, values: dict[str, float]) -> None:
        if values:
            assert self.log is not None
            self.log.write(self.state.step, values)
            self.accelerator.log(values, step=self.state.step)

    def _write_scores(self, scores: dict[str, float]) -> None:
        if self.best.is_beaten_by(scores):  # before the log, by which a resumed run knows that it was validated
            self.best.replace(lambda folder: self._export_to(folder, scores))
        self._write({f"validation/{name}": score for name, score in scores.items()})

    def _write_samples(self) -> None:
        """The folder of samples appears when it is complete; there is none where the objective writes nothing."""
        path = checkpoint_path(self.folder.samples, self.state.step)
        if path.exists():  # written before the run was interrupted: the same samples
            return
        with self._evaluating(), staged_folder(path) as staging:
            pictures = self.objective.write_samples(staging)
            if any(staging.iterdir()):
                staging.rename(path)
        log_pictures(self.accelerator, pictures, self.state.step)

    @property
    def _before_decay(self) -> Path | None:
        """The checkpoint from which the run can be made longer."""
        start = self.config.decay_start
        return None if start is None else checkpoint_path(self.folder.checkpoints, start)

    def _write_checkpoint(self) -> None:
        consumed = self.state.step * self.clips_per_step
        plain = {"order": self.order.state(consumed), "processes": self.accelerator.num_processes}
        checkpoint = Checkpoint(self.state.step, self.state.tensors(), plain)
        kept = [path for path in (self.folder.chosen, self._before_decay) if path is not None]
        write_checkpoint(self.folder.checkpoints, checkpoint, self.config.keep_checkpoints, kept)


@contextmanager
def _out_of_memory(where: str) -> Iterator[None]:
    """Turns a failed allocation into one line; `where` it failed and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise UserError(f"out of memory in {where} ({error})") from error
