"""Runs an objective: sets up Accelerate, opens the run folder, trains.

Several processes: `accelerate launch --multi_gpu --num_processes N -m tokenreel ...`, also on a machine without GPUs
(with `--cpu`, Accelerate 1.15 starts a single process whatever `--num_processes` is).
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType

from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.device import choose_device, cpu_threads, keep_freed_memory
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.distributed import Processes
from tokenreel.pipelines.training.loop import Trainer
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.run_folder import RunFolder, RunIdentity

DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def make_accelerator(device: str | None, log_with: tuple[str, ...], out: Path) -> Accelerator:
    """`device` as in torch; None: GPUs if there are any, one for each launched process.

    Raises ConfigError for a device or tracker that is not available, and if sharded training is configured.
    """
    chosen = choose_device(device)
    if chosen.index is not None:
        torch.cuda.set_device(chosen)
    trackers = {str(tracker) for tracker in get_available_trackers()}
    for name in log_with:
        if name not in trackers:  # Accelerate would ignore it silently
            raise ConfigError(
                f"log_with {name!r} is not installed; installed: {', '.join(sorted(trackers)) or 'none'}. "
                'pip install "tokenreel[trackers]" brings tensorboard; metrics.jsonl is always written'
            )
    accelerator = Accelerator(
        cpu=chosen.type == "cpu", mixed_precision="no", log_with=list(log_with) or None, project_dir=out / "trackers"
    )
    atexit.register(_end_group)
    if accelerator.distributed_type not in DATA_PARALLEL:
        raise ConfigError(
            f"{accelerator.distributed_type}: only data-parallel training is supported (every process holds the whole "
            "model); choose it with `accelerate config`"
        )
    return accelerator


def _end_group() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def start_trackers(accelerator: Accelerator, sections: Mapping[str, Any]) -> None:
    """Starts the trackers of `log_with`; the configuration is passed as text by section, which all of them accept."""
    accelerator.init_trackers("tokenreel", config={key: str(value) for key, value in sections.items()})


@dataclass(frozen=True)
class Session:
    """A run in the folder `out`; `resume` is "auto", "never" or a path, as in RunFolder.open."""

    identity: RunIdentity
    out: Path
    resume: str
    accelerator: Accelerator

    @contextmanager
    def _opened(self) -> Iterator[RunFolder]:
        """The run folder, locked by the main process. Raises what the methods of RunFolder raise."""
        folder, processes = RunFolder.open(self.out, self.identity, self.resume), Processes(self.accelerator)
        self.accelerator.wait_for_everyone()  # no process writes before all have read the folder
        lock = processes.in_main(folder.lock)
        try:
            processes.in_main(lambda: folder.create(self.identity))
            yield folder
        finally:
            if lock is not None:
                lock.release()

    def train(self, objective: Objective, config: TrainingConfig) -> dict[str, Any]:
        """Trains for `config.steps` steps. Returns the summary of Trainer.run and raises what that raises.

        Raises ConfigError for a batch that cannot be divided, before it writes anything.
        """
        config.micro_batch(self.accelerator.num_processes)
        with self._opened() as folder, cpu_threads(config.threads):
            start_trackers(self.accelerator, self.identity.sections)
            keep_freed_memory()
            try:
                return Trainer(objective, config, folder, self.accelerator).run()
            finally:
                for tracker in self.accelerator.trackers:  # not `end_training`: the group may train again
                    tracker.finish()

    def estimate(self, objective: Objective, config: TrainingConfig) -> dict[str, Any]:
        """What the run would take, from two timed steps; writes nothing. Do not train the objective afterwards."""
        folder = RunFolder.open(self.out, self.identity, self.resume)
        with cpu_threads(config.threads):
            return Trainer(objective, config, folder, self.accelerator).estimate()
