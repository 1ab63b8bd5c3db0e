"""The folder of one training run, and whether a run may be resumed in it.

run.json            the command, the resolved configuration, the identity of the data
metrics.jsonl       losses and scores by step
checkpoints/        step_00001000/, ...
samples/            step_00001000/, ...
config.json, model.safetensors, README.md      the exported model: a run folder can be used as a model
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
    """Appends to `path`, after dropping its lines later than `step`: a run that resumes from a checkpoint writes again
    what the interrupted one wrote after that checkpoint.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        staged = path.with_name(f".{path.name}")
        with self._writing():
            staged.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
            staged.replace(path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Raises UserError if the disk is full or the folder is read-only."""
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
                f"{self.path} cannot be written: {error.strerror}. Checkpoints are intact: free disk space and run the "
                "same command again"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines: a killed process may leave an incomplete one at the end. No file: no lines."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


RUN_FILE = "run.json"
# Fields of `training:` that do not change what a step computes, so that a run may be resumed with other values.
RESUMABLE_FIELDS = (
    *("steps", "log_every", "checkpoint_every", "keep_checkpoints", "validate_every", "validation_clips"),
    *("sample_every", "sample_clips", "log_with"),
    *("perceptual.file", "guard"),  # path of the weights, whose hash is in `perceptual.sha256`
)


@dataclass(frozen=True)
class RunIdentity:
    """What must be equal for a run to be resumed."""

    command: str
    sections: Mapping[str, Any]  # the resolved configuration
    data_identity: str  # of the plan or cache
    data_path: str  # where the data were; not compared

    def difference(self, other: RunIdentity) -> str | None:
        """The first difference that prevents resuming, as part of an error message; None if there is none."""
        if self.command != other.command:
            return f"it is a run of {self.command}, not of {other.command}"
        mine, theirs = _flat(self.sections), _flat(other.sections)
        resumable = {f"training.{name}" for name in RESUMABLE_FIELDS}
        if mine.get("training.schedule") == "cosine":
            resumable.discard("training.steps")  # all learning rates depend on it
        for key in sorted((mine.keys() | theirs.keys()) - resumable):
            if mine.get(key) != theirs.get(key):
                return f"it was started with {key} = {mine.get(key)!r}, not {theirs.get(key)!r}"
        if self.data_identity != other.data_identity:
            return f"it was started on other data ({self.data_identity}, not {other.data_identity})"
        return None


class RunFolder:
    """Paths of a run, and the checkpoint that it resumes from (None: a new run)."""

    def __init__(self, path: Path, resume_from: Checkpoint | None) -> None:
        self.path = path
        self.resume_from = resume_from
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"

    @classmethod
    def open(cls, path: Path, identity: RunIdentity, resume: str = "auto") -> RunFolder:
        """`resume`: "auto" resumes an existing run, "never" requires a new folder, anything else is the path of a
        checkpoint, or of a run (its newest checkpoint).

        Raises CheckpointError if the folder or checkpoint belongs to another run, UserError if the folder holds
        anything else. Writes nothing, so that every process of a run may call it.
        """
        existing = _read_identity(path)
        if existing is not None and resume == "never":
            raise CheckpointError(f"--out {path} already holds a run: omit --resume, or give a new folder")
        if existing is not None and (difference := existing.difference(identity)):
            raise CheckpointError(f"--out {path} already holds another run: {difference}. Give a new folder")
        if existing is None and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"--out {path} already exists, is not empty and is not a run: give a new folder")
        if resume in ("auto", "never"):
            return cls(path, newest_checkpoint(path / "checkpoints"))
        return cls(path, _chosen_checkpoint(Path(resume), identity))

    def create(self, identity: RunIdentity) -> None:
        """Creates the folder and its `run.json`. Raises UserError if it cannot be written."""
        data = {"identity": identity.data_identity, "path": identity.data_path}
        text = json.dumps({"command": identity.command, "data": data, "config": identity.sections}, indent=1)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            staged = self.path / f".{RUN_FILE}-{os.getpid()}"
            staged.write_text(text + "\n")
            staged.replace(self.path / RUN_FILE)
        except OSError as error:
            raise UserError(f"--out {self.path} cannot be written: {error.strerror}; give a writable folder") from error


def _chosen_checkpoint(path: Path, identity: RunIdentity) -> Checkpoint:
    run = path if (path / RUN_FILE).exists() else path.parent.parent
    existing = _read_identity(run)
    if existing is None:
        raise CheckpointError(
            f"--resume {path} is neither a run folder nor a checkpoint of one; expected auto, never or such a path"
        )
    if difference := existing.difference(identity):
        raise CheckpointError(f"--resume {path} belongs to another run: {difference}")
    checkpoint = newest_checkpoint(path / "checkpoints") if run == path else read_checkpoint(path)
    if checkpoint is None:
        raise CheckpointError(f"--resume {path} has no checkpoint yet")
    return checkpoint


def _read_identity(path: Path) -> RunIdentity | None:
    if not (path / RUN_FILE).is_file():
        return None
    try:
        data = json.loads((path / RUN_FILE).read_text())
        return RunIdentity(data["command"], data["config"], data["data"]["identity"], data["data"]["path"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / RUN_FILE} is damaged ({error!r}): give a new folder") from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: value}
