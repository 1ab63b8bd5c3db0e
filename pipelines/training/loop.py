"""The training loop of all systems, on Accelerate.

Accelerate provides devices, processes, collectives and trackers. Precision is torch's autocast, because Accelerate
fixes it for a whole process, which may train a tokenizer and then a prior. Data order, schedule and random numbers are
functions of the step, so that a run that was killed continues from its checkpoint exactly.
"""

from __future__ import annotations

import logging
import resource
import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from tokenreel.data.order import SampleOrder
from tokenreel.errors import CheckpointError
from tokenreel.pipelines.common.progress import Progress
from tokenreel.pipelines.training.checkpoint import Checkpoint, checkpoint_path, newest_checkpoint, write_checkpoint
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.distributed import (
    average_gradients,
    clip_gradients,
    require_equal_replicas,
    seed_everything,
)
from tokenreel.pipelines.training.interrupt import Interrupt
from tokenreel.pipelines.training.losses import Diverged, LossRecord, NonFiniteLoss
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.optimizers import learning_rate_factor, set_learning_rate
from tokenreel.pipelines.training.precision import mixed_precision
from tokenreel.pipelines.training.run_folder import MetricsLog, RunFolder
from tokenreel.pipelines.training.state import TrainingState

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
        self.micro_batch = config.micro_batch(accelerator.num_processes)
        self.order = SampleOrder(objective.rows, config.seed)
        self.state = TrainingState(objective, config, accelerator.device)
        self.record = LossRecord(accelerator)
        if folder.resume_from is not None:
            self.order.resume(folder.resume_from.state["order"])
            self.state.load(folder.resume_from.step, folder.resume_from.tensors)

    def run(self) -> dict[str, Any]:
        """Trains, validates and exports. Returns the summary.

        Raises NonFiniteLoss and Diverged, after exporting the model of the newest checkpoint, and KeyboardInterrupt
        after a signal, once a checkpoint is written.
        """
        started, first = time.perf_counter(), self.state.step
        self.log = MetricsLog(self.folder.metrics, first) if self.accelerator.is_main_process else None
        scores: dict[str, float] = {}
        with Interrupt() as interrupt, Progress(self.config.steps, "train", "step", done=first) as bar:
            while self.state.step < self.config.steps:
                self._train_step()
                if self._stop_requested(interrupt):
                    self._stop()
                scores = self._run_periodic_tasks() or scores
                bar.advance()
        scores = scores or self._score()  # none yet if the run was already complete
        self._export(scores)
        for alarm in self.objective.alarms:
            logger.warning(alarm)
        seconds, clips = time.perf_counter() - started, (self.state.step - first) * self.config.batch
        return {
            "out": str(self.folder.path),
            "steps": self.state.step,
            "clips": clips,
            "seconds": round(seconds, 1),
            "clips_per_second": round(clips / seconds, 1),
            "parameters": self.state.count_parameters(),
            **scores,
            **({"alarms": list(self.objective.alarms)} if self.objective.alarms else {}),
        }

    def estimate(self) -> dict[str, Any]:
        """What the run would take, measured in the second of two steps. Writes nothing; do not train afterwards."""
        self._train_step()
        started = time.perf_counter()
        self._train_step()
        self.record.take(self.state.step)  # synchronizes with the device
        seconds, clips = time.perf_counter() - started, self.config.steps * self.config.batch
        checkpoint = sum(t.numel() * t.element_size() for file in self.state.tensors().values() for t in file.values())
        return {
            "parameters": self.state.count_parameters(),
            "training_clips": len(self.objective.rows),
            "clips": clips,
            "epochs": round(clips / len(self.objective.rows), 2),
            "seconds_per_step": round(seconds, 4),
            "hours": round(seconds * self.config.steps / 3600, 3),
            "memory_gb": round(_peak_memory(self.accelerator.device) / 1e9, 2),
            "disk_gb": round(checkpoint * (self.config.keep_checkpoints + 1) / 1e9, 3),
        }

    def _train_step(self) -> None:
        started, losses = time.perf_counter(), dict[str, Tensor]()
        step, micros = self.state.step, range(self.config.accumulate)
        self.objective.begin_step(step)
        batches = [self.objective.batch(*self._samples(step, micro)) for micro in micros]
        self.objective.prefetch(np.concatenate([self._samples(step + 1, micro)[0] for micro in micros]))
        for number, update in enumerate(self.objective.updates):
            losses |= self._update(update, batches, (self.config.seed, step, number))
        if self.state.average is not None:
            self.state.average.update(step)
        self.state.step += 1
        self.record.add(losses, time.perf_counter() - started)

    def _update(self, update: str, batches: list[Any], seed_parts: tuple[int, ...]) -> dict[str, Tensor]:
        """Runs one update. Returns its losses, which are empty if the objective skips it in this step."""
        optimizer, losses = self.state.optimizers[update], dict[str, Tensor]()
        set_learning_rate(optimizer, learning_rate_factor(self.config, self.state.step))
        optimizer.zero_grad(set_to_none=True)
        for micro, batch in enumerate(batches):
            self._backward(update, batch, (*seed_parts, micro), losses)
        if losses:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            average_gradients(parameters, self.accelerator)
            losses[f"gradient_norm_{update}"] = clip_gradients(parameters, self.config.clip_norm)
            optimizer.step()
        return losses

    def _samples(self, step: int, micro: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and sample numbers, int64 [n] each, of this process in a micro-step: a slice of the common order."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = step * self.config.batch + (micro * processes + rank) * self.micro_batch
        return self.order.rows(first, self.micro_batch), np.arange(first, first + self.micro_batch)

    def _backward(self, update: str, batch: Any, seed_parts: tuple[int, ...], sums: dict[str, Tensor]) -> None:
        """Adds the gradients of a micro-step to the parameters and its losses to `sums`."""
        device = self.accelerator.device
        generator = seed_everything(device, *seed_parts, self.accelerator.process_index)
        with mixed_precision(device, self.config.precision):
            losses = self.objective.losses(update, batch, generator)
        if not losses:
            return
        scaled = {name: loss.float() / self.config.accumulate for name, loss in losses.items()}
        torch.stack(list(scaled.values())).sum().backward()
        for name, loss in scaled.items():
            sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()

    def _stop_requested(self, interrupt: Interrupt) -> bool:
        """Whether any process received a signal. All must stop at the same step, so that several processes check only
        every `log_every` steps.
        """
        if self.accelerator.num_processes == 1:
            return interrupt.requested
        if self.state.step % self.config.log_every:
            return False
        requested = torch.tensor([float(interrupt.requested)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(requested, reduction="sum").item())

    def _stop(self) -> None:
        self._flush()
        self._checkpoint()
        self._export({})
        raise KeyboardInterrupt(
            f"stopped at step {self.state.step}; its checkpoint is in {self.folder.checkpoints}. "
            "Run the same command to resume from it"
        )

    def _run_periodic_tasks(self) -> dict[str, float]:
        """Logs, validates, samples and writes a checkpoint if they are due. Returns the scores if it validated."""
        step, last, scores = self.state.step, self.state.step == self.config.steps, dict[str, float]()
        checkpoint = last or step % self.config.checkpoint_every == 0
        validate = last or step % self.config.validate_every == 0
        if checkpoint or validate or step % self.config.log_every == 0:
            self._flush()
        if validate:
            scores = self._score()
            self._write({f"validation/{name}": score for name, score in scores.items()})
        if last or step % self.config.sample_every == 0:
            self._write_samples()
        if checkpoint:
            self._checkpoint()
        return scores

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
            means = {f"train/{name}": value for name, value in taken.means().items()}
            means["learning_rate"] = self.config.learning_rate * learning_rate_factor(self.config, self.state.step - 1)
            self._write({**means, "clips_per_second": taken.steps_per_second * self.config.batch})

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

    def _write(self, values: dict[str, float]) -> None:
        if self.log is not None and values:
            self.log.write(self.state.step, values)
            self.accelerator.log(values, step=self.state.step)

    # In the following the main process works, while the others wait at the next collective operation.

    def _score(self) -> dict[str, float]:
        if not self.accelerator.is_main_process:
            return {}
        with self.state.evaluating():
            return self.objective.validate()

    def _write_samples(self) -> None:
        if self.accelerator.is_main_process:
            with self.state.evaluating():
                self.objective.write_samples(checkpoint_path(self.folder.samples, self.state.step))

    def _export(self, scores: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            about = {"steps": self.state.step, "batch": self.config.batch, "data": self.objective.data_identity}
            with self.state.evaluating():
                self.objective.export(self.folder.path, {**about, "scores": scores})
        self.accelerator.wait_for_everyone()

    def _checkpoint(self) -> None:
        for network in self.state.networks.values():
            require_equal_replicas(network.state_dict(), self.accelerator)
        if self.accelerator.is_main_process:
            consumed = self.state.step * self.config.batch
            plain = {"order": self.order.state(consumed), "processes": self.accelerator.num_processes}
            checkpoint = Checkpoint(self.state.step, self.state.tensors(), plain)
            write_checkpoint(self.folder.checkpoints, checkpoint, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()


def _peak_memory(device: torch.device) -> int:
    """Bytes allocated on the GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
