"""A toy objective with everything that makes resuming hard: dropout, two updates, random numbers of the generator, an
unused parameter, averaged weights, accumulation. Also a script that trains it: `toy_training.py OUT DIE_AT NAN_AT
SIGNAL_AT VALIDATION_S`; with VALIDATION_S collective operations of gradients have half that time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tokenreel.config import to_mapping
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.loop import Trainer
from tokenreel.pipelines.training.objective import Objective, part_of
from tokenreel.pipelines.training.optimizers import build_optimizer
from tokenreel.pipelines.training.run_folder import RunFolder, RunIdentity
from tokenreel.pipelines.training.session import make_accelerator
from tokenreel.sample_random import SampleRandom

ROWS = 23
NEVER = 10**6  # a step that no test reaches
CONFIG = TrainingConfig(
    steps=11, batch=12, accumulate=3, warmup=3, ema_decay=0.9, log_every=2, checkpoint_every=3, sample_every=5, seed=7,
    learning_rate=1e-2, weight_decay=0.1, schedule="cosine",
)  # fmt: skip


class ToyObjective(Objective):
    """Fits rows to targets, while a critic learns from the model's output. `die_at`: SIGKILL in that step,
    0 being the first; `nan_at`: a loss of the last process is NaN in that step; `signal_at`: that process gets SIGUSR1.
    """

    data_identity = "toy"
    updates = ("model", "critic")
    best_score = "error"

    def __init__(
        self, config: TrainingConfig, die_at: int = NEVER, nan_at: int = NEVER, signal_at: int = NEVER
    ) -> None:
        torch.manual_seed(config.seed)
        model = nn.Sequential(nn.Linear(5, 17), nn.Dropout(0.3), nn.Tanh(), nn.Linear(17, 3))
        model.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
        self.networks = {"model": model, "critic": nn.Linear(3, 1)}
        self.config = config
        self.rows = np.arange(ROWS)
        self.die_at = die_at
        self.nan_at = nan_at
        self.signal_at = signal_at
        self.validation_s = 0.0
        self.poisoned = False
        self.samples_read: list[tuple[int, int]] = []  # (row, sample) in the order of reading

    def begin_step(self, step: int) -> None:
        last = int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1
        self.poisoned = last and step == self.nan_at
        if last and step == self.signal_at:
            os.kill(os.getpid(), signal.SIGUSR1)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {name: build_optimizer(self.config, [network]) for name, network in self.networks.items()}

    def batch(self, rows: np.ndarray, samples: np.ndarray) -> Tensor:
        if samples[0] >= self.die_at * self.config.batch:
            os.kill(os.getpid(), signal.SIGKILL)
        self.samples_read += zip(rows.tolist(), samples.tolist(), strict=True)
        return torch.sin(torch.tensor(rows)[:, None] * torch.arange(1.0, 6.0))

    def prefetch(self, rows: np.ndarray, samples: np.ndarray) -> None:
        pass

    def losses(self, update: str, batch: Tensor, random: SampleRandom) -> dict[str, Tensor]:
        out = self.networks["model"](batch + 0.1 * random.randn(batch.shape[1]))
        if update == "critic":
            return {"critic": (self.networks["critic"](out.detach()) - 1).square().mean()}
        judged = -self.networks["critic"](out).mean() * (float("nan") if self.poisoned else 0.1)
        return {"fit": (out - batch[:, :3]).square().mean(), "judged": judged}

    def score(self, part: int, parts: int) -> float:
        """The sum of squared errors of a part of the rows."""
        time.sleep(self.validation_s * part)  # all but the main process
        batch = torch.sin(torch.arange(ROWS)[:, None] * torch.arange(1.0, 6.0))
        errors = (self.networks["model"](batch) - batch[:, :3]).square()
        return float(errors[part_of(np.arange(ROWS), part, parts)].sum())

    def validate(self, parts: Sequence[float]) -> dict[str, float]:
        time.sleep(self.validation_s)
        return {"error": sum(parts) / (3 * ROWS)}

    def write_samples(self, folder: Path) -> dict[str, np.ndarray]:
        folder.mkdir(parents=True, exist_ok=True)
        return {}

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        safetensors.torch.save_file(self.networks["model"].state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"about": dict(about)}))


def identity(config: TrainingConfig) -> RunIdentity:
    return RunIdentity("toy", {"training": to_mapping(config)}, "toy", "memory")


def train_toy(
    out: Path, config: TrainingConfig = CONFIG, resume: str = "auto", objective: ToyObjective | None = None
) -> dict[str, Any]:
    accelerator = make_accelerator("cpu", (), out)
    folder = RunFolder.open(out, identity(config), resume)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.create(identity(config))
    accelerator.wait_for_everyone()
    trainer = Trainer(objective or ToyObjective(config), config, folder, accelerator)
    return trainer.run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    steps, seconds = list(map(int, sys.argv[2:5])), float(sys.argv[5])
    if seconds:  # before Accelerate does it
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=seconds / 2))
    config = replace(CONFIG, validate_every=4) if seconds else CONFIG
    toy = ToyObjective(config, *steps)
    toy.validation_s = seconds
    train_toy(Path(sys.argv[1]), config, objective=toy)
