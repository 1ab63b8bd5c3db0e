"""The only training loop, on Accelerate: it knows an Objective, a run folder, and neither pixels nor codes.

Accelerate gives devices, processes, collectives and trackers. Precision is torch's autocast, because Accelerate fixes
one for a whole process, and a process may train a tokenizer and then a prior. Data order, schedule and random numbers
are functions of the step, so that a run which was killed goes on from its checkpoint as if it had not been.
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
from tokenreel.pipelines.training.run_folder import MetricsLog, RunFolder
from tokenreel.pipelines.training.state import TrainingState

logger = logging.getLogger(__name__)


class Trainer:
    """Steps an objective from the run folder's checkpoint to `config.steps`."""

    def __init__(
        self, objective: Objective, config: TrainingConfig, folder: RunFolder, accelerator: Accelerator
    ) -> None:
        self.objective = objective
        self.config = config
        self.folder = folder
        self.accelerator = accelerator
        self.share = config.micro_batch(accelerator.num_processes)
        self.order = SampleOrder(objective.rows, config.seed)
        self.state = TrainingState(objective, config, accelerator.device)
        self.record = LossRecord(accelerator)
        if folder.start is not None:
            self.order.resume(folder.start.state["order"])
            self.state.load(folder.start.step, folder.start.tensors)

    def run(self) -> dict[str, Any]:
        """Trains to the end, validates and exports. Returns the summary.

        Raises NonFiniteLoss and Diverged once the model of the newest checkpoint is exported, and KeyboardInterrupt
        once a checkpoint is written where a signal asked for an end.
        """
        started, first = time.perf_counter(), self.state.step
        self.log = MetricsLog(self.folder.metrics, first) if self.accelerator.is_main_process else None
        scores: dict[str, float] = {}
        with Interrupt() as interrupt, Progress(self.config.steps, "train", "step", done=first) as bar:
            while self.state.step < self.config.steps:
                self._train_step()
                if self._asked_to_stop(interrupt):
                    self._stop()
                scores = self._look() or scores
                bar.advance()
        scores = scores or self._score()  # a run that was complete already has none yet
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
        """What the run would take, from two steps: the first one also warms up. Writes nothing; train no further."""
        self._train_step()
        started = time.perf_counter()
        self._train_step()
        self.record.take(self.state.step)  # waits for the device
        seconds, clips = time.perf_counter() - started, self.config.steps * self.config.batch
        checkpoint = sum(t.numel() * t.element_size() for file in self.state.tensors().values() for t in file.values())
        return {
            "parameters": self.state.count_parameters(),
            "training_clips": len(self.objective.rows),
            "clips": clips,
            "epochs": round(clips / len(self.objective.rows), 2),
            "seconds_a_step": round(seconds, 4),
            "hours": round(seconds * self.config.steps / 3600, 3),
            "memory_gb": round(_peak_memory(self.accelerator.device) / 1e9, 2),
            "disk_gb": round(checkpoint * (self.config.keep + 1) / 1e9, 3),
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

    def _update(self, update: str, batches: list[Any], place: tuple[int, ...]) -> dict[str, Tensor]:
        """Moves the parameters of one update; returns its losses, none where it is left out of this step."""
        optimizer, losses = self.state.optimizers[update], dict[str, Tensor]()
        set_learning_rate(optimizer, learning_rate_factor(self.config, self.state.step))
        optimizer.zero_grad(set_to_none=True)
        for micro, batch in enumerate(batches):
            self._backward(update, batch, (*place, micro), losses)
        if losses:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            average_gradients(parameters, self.accelerator)
            losses[f"gradient_norm_{update}"] = clip_gradients(parameters, self.config.clip)
            optimizer.step()
        return losses

    def _samples(self, step: int, micro: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and sample numbers of this process in a micro step: its slice of the one order of all processes."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = step * self.config.batch + (micro * processes + rank) * self.share
        return self.order.rows(first, self.share), np.arange(first, first + self.share)

    def _backward(self, update: str, batch: Any, place: tuple[int, ...], sums: dict[str, Tensor]) -> None:
        """Adds a micro step's gradients to the parameters and its losses to `sums`."""
        device = self.accelerator.device
        generator = seed_everything(device, *place, self.accelerator.process_index)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            losses = self.objective.losses(update, batch, generator)
        if not losses:
            return
        scaled = {name: loss.float() / self.config.accumulate for name, loss in losses.items()}
        torch.stack(list(scaled.values())).sum().backward()
        for name, loss in scaled.items():
            sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()

    def _asked_to_stop(self, interrupt: Interrupt) -> bool:
        """Processes have to stop at the same step, so several of them ask one another, only now and then."""
        if self.accelerator.num_processes == 1:
            return interrupt.requested
        if self.state.step % self.config.log_every:
            return False
        asked = torch.tensor([float(interrupt.requested)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, reduction="sum").item())

    def _stop(self) -> None:
        self._flush()
        self._checkpoint()
        self._export({})
        raise KeyboardInterrupt(
            f"stopped at step {self.state.step}; its checkpoint is in {self.folder.checkpoints}. "
            "The same command goes on from it"
        )

    def _look(self) -> dict[str, float]:
        """Whatever is due after a step: log, validation, samples, checkpoint. Returns the scores if it validated."""
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
        """Writes the losses since the last time. Raises NonFiniteLoss and Diverged: no checkpoint is written without
        this look.
        """
        if len(self.record):
            try:
                taken = self.record.take(self.state.step)
                self.objective.watch(taken.first, taken.steps)
            except (NonFiniteLoss, Diverged) as error:
                raise type(error)(f"{error}. {self._fall_back()}") from error
            means = {f"train/{name}": value for name, value in taken.means().items()}
            means["learning_rate"] = self.config.learning_rate * learning_rate_factor(self.config, self.state.step - 1)
            self._write({**means, "clips_per_second": taken.rate * self.config.batch})

    def _fall_back(self) -> str:
        """Exports the model of the newest whole checkpoint, where there is one; says so in words for the user.

        All processes come here together: what stops a run is the means over processes.
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
        return f"{self.folder.path} now holds the model of step {self.state.step}, its newest whole checkpoint"

    def _write(self, values: dict[str, float]) -> None:
        if self.log is not None and values:
            self.log.write(self.state.step, values)
            self.accelerator.log(values, step=self.state.step)

    # These are for the main process alone; the others meanwhile wait where the processes next communicate.

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
            write_checkpoint(self.folder.checkpoints, checkpoint, self.config.keep)
        self.accelerator.wait_for_everyone()


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
