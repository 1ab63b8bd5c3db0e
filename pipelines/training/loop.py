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

from accelerate import Accelerator

from tokenreel.data.cache.files import staged_folder
from tokenreel.errors import CheckpointError, UserError
from tokenreel.pipelines.common.device import peak_memory, ran_out_of_memory
from tokenreel.pipelines.common.progress import Progress
from tokenreel.pipelines.training.best_model import BestModel
from tokenreel.pipelines.training.checkpoint import Checkpoint, checkpoint_path, newest_checkpoint, write_checkpoint
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.distributed import (
    Processes,
    StopVote,
    require_equal_replicas,
)
from tokenreel.pipelines.training.interrupt import Interrupt
from tokenreel.pipelines.training.losses import Diverged, LossRecord, NonFiniteLoss
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.optimizers import learning_rate_factor
from tokenreel.pipelines.training.run_folder import MetricsLog, RunFolder
from tokenreel.pipelines.training.state import TrainingState
from tokenreel.pipelines.training.step import TrainingStep
from tokenreel.pipelines.training.tracker_pictures import log_pictures

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
        self.state = TrainingState(objective, config, accelerator.device)
        self.training_step = TrainingStep(objective, config, self.state, accelerator)
        self.record = LossRecord(accelerator)
        self.shown: dict[str, str] = {}  # beside the count of steps: the loss of the last log, the last score
        self.best = BestModel(folder.best, objective.best_score, objective.best_is_highest)
        if folder.resume_from is not None:
            self.training_step.order.resume(folder.resume_from.state.get("order", {}))
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
        seconds, clips = time.perf_counter() - started, (self.state.step - first) * self.training_step.clips_per_step
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
        seconds, clips = time.perf_counter() - started, self.config.steps * self.training_step.clips_per_step
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
        started = time.perf_counter()
        losses = self.training_step.run()
        self.record.add(losses, time.perf_counter() - started)

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
            main = [losses[name] for name in self.training_step.main_losses if name in losses]
            self.shown["loss"] = f"{sum(main):.4g}"
            losses |= self.objective.in_other_units(losses)
            means = {f"train/{name}": value for name, value in losses.items()}
            means["learning_rate"] = self.config.learning_rate * learning_rate_factor(self.config, self.state.step - 1)
            means["clips_per_second"] = taken.steps_per_second * self.training_step.clips_per_step
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
        consumed = self.state.step * self.training_step.clips_per_step
        plain = {"order": self.training_step.order.state(consumed), "processes": self.accelerator.num_processes}
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
