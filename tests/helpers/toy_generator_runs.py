"""Labelled videos, and train-generator on them with the toy generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.decoders.generators.toy_generators import ToyGenerator

from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import GENERATORS
from tokenreel.pipelines.commands import train_generator
from tokenreel.pipelines.requests.training import TrainGeneratorRequest

VIDEOS, TICKS, FRAMES, HEIGHT, WIDTH = 29, 7, 5, 8, 12
DATA = DataConfig(Framing(HEIGHT, WIDTH), FRAMES, validation=0.4)
CLASSES = ("arm", "ball", "cup")
SETTINGS = [
    f"data={{frames: {FRAMES}, framing: {{height: {HEIGHT}, width: {WIDTH}}}, validation: 0.4}}",
    "training={batch: 4, optimizer: adam, learning_rate: 0.01, clip_norm: null, log_every: 1, checkpoint_every: 2}",
    "training={validate_every: 3, sample_every: 3, sample_clips: 2, statistics_batches: 3, keep_checkpoints: 9}",
]
BY_CLASS = [
    "generator={type: toy, class_conditional: true}",
    "training={discriminator_updates: 2, random_start: true, ema_decay: 0.9, ema_start: 2}",
]
BETWEEN = ["generator={type: toy, given_frames: 2, end_frame: true, channels: 1}", "training.shared_clips=true"]


def make_videos(path: Path, labels: list[str] | None = None) -> Path:
    """Squares that move over noise, in an npz file with labels (default: the classes in turn)."""
    random = np.random.default_rng(3)
    videos = random.integers(0, 60, (VIDEOS, TICKS, HEIGHT, WIDTH, 3), np.uint8)
    for video, (y, colour) in zip(videos, random.integers(0, (4, 200), (VIDEOS, 2)), strict=True):
        for tick, frame in enumerate(video):
            frame[y : y + 4, tick : tick + 4] += colour.astype(np.uint8)
    names = [CLASSES[number % 3] for number in range(VIDEOS)] if labels is None else labels
    np.savez(path, videos=videos, labels=np.array(names))
    return path


def train(videos: Path, out: Path, settings: list[str], steps: int = 5, **flags: Any) -> dict[str, Any]:
    flags = {"assignments": [*SETTINGS, *settings], "workers": 0, "device": "cpu", "seed": 7, **flags}
    return train_generator.run(TrainGeneratorRequest(data=str(videos), out=out, steps=steps, **flags))


class NormalisedToy(ToyGenerator):
    """With a spectral norm, which is not exported."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        torch.nn.utils.parametrizations.spectral_norm(self.hidden)

    def for_export(self) -> Any:
        copy = super().for_export()
        plain = torch.nn.Linear(*reversed(self.hidden.weight.shape), bias=False)
        plain.load_state_dict({"weight": copy.hidden.weight})
        copy.hidden = plain  # removing the parametrization of a copy would remove it from the class that both share
        return copy


def register(monkeypatch: Any, member: type[ToyGenerator] = ToyGenerator) -> None:
    monkeypatch.setitem(GENERATORS._members, "toy", member)
