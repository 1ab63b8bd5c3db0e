"""The folder of one training run: what it was made with, and whether it may be gone on with.

    run.json            the command, the resolved configuration, what the data are
    metrics.jsonl       losses and scores by step
    checkpoints/        step_00001000/, ...
    samples/            step_00001000/, ...
    config.json, model.safetensors, README.md      the exported model, so that the run folder itself is one

It knows nothing of models or data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenreel.errors import CheckpointError, UserError
from tokenreel.pipelines.training.checkpoint import Checkpoint, newest_checkpoint, read_checkpoint


class MetricsLog:
    """Appends to a file whose lines beyond `step` are dropped first: what an interrupted run wrote after its checkpoint
    is written again by the run that goes on from there.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        staged = path.with_name(f".{path.name}")
        with self._writing():
            staged.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
            staged.replace(path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Raises UserError where the disk is full or the folder read-only."""
        with self._writing(), self.path.open("a") as file:
            file.write(f"{json.dumps({'step': step, **values})}\n")
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}. Checkpoints are whole; make room and start the same "
                "command again"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a killed process may leave half of one at the end. An absent file has none."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


RUN = "run.json"
# Fields of `training:` that do not change what a step computes: a run may go on with other values of these.
FREE = (
    *("steps", "log_every", "checkpoint_every", "keep", "validate_every", "validation_clips"),
    *("sample_every", "sample_clips", "log_with"),
    *("perceptual.file", "guard"),  # where the weights lie; their hash is in `perceptual.sha256`
)


@dataclass(frozen=True)
class RunIdentity:
    """What makes two runs the same run."""

    command: str
    sections: Mapping[str, Any]  # the resolved configuration
    data_identity: str  # of the plan or cache trained on
    data_path: str  # where that lay; it may lie elsewhere when the run goes on

    def difference(self, other: RunIdentity) -> str | None:
        """The first thing that differs and matters, in words for an error message."""
        if self.command != other.command:
            return f"it is a run of {self.command}, not of {other.command}"
        mine, theirs = _flat(self.sections), _flat(other.sections)
        free = {f"training.{name}" for name in FREE}
        if mine.get("training.schedule") == "cosine":
            free.discard("training.steps")  # the cosine ends there, so all learning rates depend on it
        for key in sorted((mine.keys() | theirs.keys()) - free):
            if mine.get(key) != theirs.get(key):
                return f"it was begun with {key} = {mine.get(key)!r}, not {theirs.get(key)!r}"
        if self.data_identity != other.data_identity:
            return f"it was begun on other data ({self.data_identity}, not {other.data_identity})"
        return None


class RunFolder:
    """`open` makes or takes the folder, and finds the checkpoint to begin from."""

    def __init__(self, path: Path, start: Checkpoint | None) -> None:
        self.path = path
        self.start = start
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"

    @classmethod
    def open(cls, path: Path, identity: RunIdentity, resume: str = "auto") -> RunFolder:
        """`resume`: "auto" goes on with a run that is there, "never" wants a new folder, anything else is the path of
        a checkpoint, or of a run whose newest one is meant.

        Raises CheckpointError where the folder or checkpoint belongs to another run, UserError where the folder holds
        something else or cannot be written. Only reads, so that every process of a run may call it.
        """
        there = _read_identity(path)
        if there is not None and resume == "never":
            raise CheckpointError(f"--out {path} already holds a run: leave --resume out, or give a new folder")
        if there is not None and (difference := there.difference(identity)):
            raise CheckpointError(f"--out {path} already holds another run: {difference}. Give a new folder")
        if there is None and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"--out {path} already holds something that is no run: give a new folder")
        if resume in ("auto", "never"):
            return cls(path, newest_checkpoint(path / "checkpoints"))
        return cls(path, _chosen_checkpoint(Path(resume), identity))

    def create(self, identity: RunIdentity) -> None:
        """Writes the folder and its `run.json`. Raises UserError where that is not possible."""
        data = {"identity": identity.data_identity, "path": identity.data_path}
        text = json.dumps({"command": identity.command, "data": data, "config": identity.sections}, indent=1)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            staged = self.path / f".{RUN}-{os.getpid()}"
            staged.write_text(text + "\n")
            staged.replace(self.path / RUN)
        except OSError as error:
            raise UserError(
                f"--out {self.path} cannot be written: {error.strerror}; give a folder that you may write to"
            ) from error


def _chosen_checkpoint(path: Path, identity: RunIdentity) -> Checkpoint:
    run = path if (path / RUN).exists() else path.parent.parent
    there = _read_identity(run)
    if there is None:
        raise CheckpointError(
            f"--resume {path} is neither a run folder nor a checkpoint of one (auto, never or a path)"
        )
    if difference := there.difference(identity):
        raise CheckpointError(f"--resume {path} belongs to another run: {difference}")
    checkpoint = newest_checkpoint(path / "checkpoints") if run == path else read_checkpoint(path)
    if checkpoint is None:
        raise CheckpointError(f"--resume {path} has no checkpoint yet")
    return checkpoint


def _read_identity(path: Path) -> RunIdentity | None:
    if not (path / RUN).is_file():
        return None
    try:
        data = json.loads((path / RUN).read_text())
        return RunIdentity(data["command"], data["config"], data["data"]["identity"], data["data"]["path"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / RUN} is damaged ({error!r}): give a new folder") from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: value}
