"""An attack: a small input that claims, nests, leads out or never ends, and the command that reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.benchmarks.reliability.project import Project
from tokenreel.data.video.writer import write_video


@dataclass(frozen=True)
class Attack:
    name: str
    arguments: list[str]
    refused: bool = True  # False where the right result is as good as an error
    intact: bool = False  # no attack, and must be accepted
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)  # variables besides those of this process


def inspect(name: str, path: Path, refused: bool = True) -> Attack:
    return Attack(name, ["inspect", "--data", str(path)], refused)


def tokenize(name: str, data: Path, project: Project, refused: bool = True) -> Attack:
    out = data.with_name(f"{data.name}.tokens")
    arguments = ["--tokenizer", str(project.tokenizer), "--data", str(data), "--out", str(out), "--device", "cpu"]
    return Attack(name, ["tokenize-dataset", *arguments, "--allow-collapsed"], refused)


def one_video(folder: Path) -> Path:
    folder.mkdir()
    write_video(folder / "a.mp4", np.zeros((9, 16, 16, 3), np.uint8), 10)
    return folder
