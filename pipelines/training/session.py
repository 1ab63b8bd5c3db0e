"""From an objective and its settings to a finished run: opens the run folder, trains, closes what was opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tokenreel.pipelines.common.device import cpu_threads, keep_freed_memory
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.launch import start_trackers
from tokenreel.pipelines.training.loop import Trainer
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.run_folder import RunFolder, RunIdentity


@dataclass(frozen=True)
class Session:
    """`identity` says what run it is; `out` and `resume` (auto, never or a path) where it lies and begins."""

    identity: RunIdentity
    out: Path
    resume: str
    accelerator: Accelerator

    def _open(self) -> RunFolder:
        """Raises what RunFolder.open and RunFolder.create raise."""
        folder = RunFolder.open(self.out, self.identity, self.resume)
        self.accelerator.wait_for_everyone()  # nobody writes before all have looked
        if self.accelerator.is_main_process:
            folder.create(self.identity)
        self.accelerator.wait_for_everyone()
        return folder

    def train(self, objective: Objective, config: TrainingConfig) -> dict[str, Any]:
        """Trains to the end of `config`; returns the summary of Trainer.run and raises what it raises."""
        folder = self._open()
        start_trackers(self.accelerator, self.identity.sections)
        keep_freed_memory()
        try:
            with cpu_threads(config.threads):
                return Trainer(objective, config, folder, self.accelerator).run()
        finally:
            self.accelerator.end_training()

    def estimate(self, objective: Objective, config: TrainingConfig) -> dict[str, Any]:
        """Two steps for the clock, and nothing written: what the run would take. The objective is used up by it."""
        folder = RunFolder.open(self.out, self.identity, self.resume)
        with cpu_threads(config.threads):
            return Trainer(objective, config, folder, self.accelerator).estimate()
