"""The folder of one training run, and whether a run may be resumed in it.

run.json            the command, the resolved configuration, the identity of the data
metrics.jsonl       losses and scores by step
checkpoints/        step_00001000/, ...
samples/            step_00001000/, ...
config.json, model.safetensors, README.md      the exported model: a run folder can be used as a model
best/               the model of the best validation
set_aside_1/        later checkpoints and samples, a later best/, and all metrics, of before the run went back to an
                    earlier checkpoint, with the run.json of then: a run folder itself
.lock               locked while a process writes the folder
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tokenreel.config import read_small_text
from tokenreel.data.cache.files import flush
from tokenreel.errors import CheckpointError, UserError
from tokenreel.pipelines.common.folders import RUN_FILE
from tokenreel.pipelines.common.settings import differing_settings
from tokenreel.pipelines.training import best_model
from tokenreel.pipelines.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    clear_staging,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    step_of,
)

logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends to `path`, after dropping its lines later than `step`: a run that resumes from a checkpoint writes again
    what the interrupted one wrote after that checkpoint.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        validations = (line["step"] for line in kept if any(name.startswith("validation/") for name in line))
        self.last_validation: int | None = max(validations, default=None)  # its step
        staged = path.with_name(f".{path.name}")
        with self._writing():
            staged.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
            flush(staged)  # else a power failure may leave the new name and none of the lines
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
    """All complete lines: a killed process may leave an incomplete one at the end. No file: no lines.

    Damaged lines are skipped with a warning.
    """
    if not path.exists():
        return []
    parsed = []
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):  # a longer one counts as several damaged lines
            if line.endswith(b"\n") or len(line) == MAX_LINE_BYTES:
                parsed.append(_metrics_line(line))
    if damaged := [str(number) for number, line in enumerate(parsed, 1) if line is None]:
        logger.warning("%s: damaged lines are skipped: %s", path, ", ".join(damaged[:20]))
    return [line for line in parsed if line is not None]


def _metrics_line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


MAX_LINE_BYTES = 1 << 20  # of the metrics
LOCK_FILE = ".lock"
# Of killed writers; the second is what safetensors writes to, the last what samples are staged in.
OWN_LEFTOVERS = (".run.json-*", ".tmp??????", "samples/.*.partial")
# Fields of `training:` that do not change what a step computes, so that a run may be resumed with other values.
RESUMABLE_FIELDS = (
    *("steps", "decay_steps", "log_every", "checkpoint_every", "keep_checkpoints"),
    *("validate_every", "validation_clips", "sample_every", "sample_clips", "log_with"),
    *("guard", "recompute_activations", "statistics_batches"),
    "perceptual.file",  # path of the weights, whose hash is in `perceptual.sha256`
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
        resumable = {f"training.{name}" for name in RESUMABLE_FIELDS}
        if self.sections.get("training", {}).get("schedule") == "cosine":
            resumable.discard("training.steps")  # all learning rates depend on it
        for key, (mine, others) in differing_settings(self.sections, other.sections).items():
            if key not in resumable:
                return f"it was started with {key} = {mine}, not {others}{_NOTES.get(key, '')}"
        if self.data_identity != other.data_identity:
            return f"it was started on other data ({self.data_identity}, not {other.data_identity})"
        return None

    def steps_alike(self, other: RunIdentity) -> int | None:
        """How many first steps have the same learning rates in both, if they differ in nothing else; None: all."""
        ends = [
            (training.get("steps", 0), training.get("decay_steps", 0))
            for training in (self.sections.get("training", {}), other.sections.get("training", {}))
        ]
        starts = [steps - decay for steps, decay in ends if decay]
        return min(starts) if starts and ends[0] != ends[1] else None


_NOTES = {
    "training.steps": " (every learning rate of a cosine schedule depends on it; --init-from RUN starts a new run with "
    "its weights)",
    "initialised_from": " (the fingerprint of the model that --init-from names)",
}


class RunFolder:
    """Paths of a run, and the checkpoint that it resumes from (None: from its beginning).

    `goes_back`: whether what the folder holds of later steps may differ from what the run will compute there: the user
    named the checkpoint, or the learning rates are others.
    """

    def __init__(self, path: Path, resume_from: Checkpoint | None, goes_back: bool = False) -> None:
        self.path = path
        self.resume_from = resume_from
        self.goes_back = goes_back
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.best = path / "best"
        # the checkpoint that is kept besides the newest ones
        self.chosen = checkpoint_path(self.checkpoints, resume_from.step) if goes_back and resume_from else None
        self._present = list_checkpoints(self.checkpoints)

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
        if existing is None and path.exists() and _holds_anything(path):
            raise UserError(f"--out {path} already exists, is not empty and is not a run: give a new folder")
        if resume not in ("auto", "never"):
            return cls(path, _chosen_checkpoint(Path(resume), identity), goes_back=True)
        newest = newest_checkpoint(path / "checkpoints")
        if existing is None:
            return cls(path, newest)
        checkpoint = None if newest is None else _same_rates(path, newest, existing, identity)
        return cls(path, checkpoint, goes_back=existing.steps_alike(identity) is not None)

    def lock(self) -> FileLock:
        """Creates the folder and locks it, until the lock is released or the process dies.

        Raises CheckpointError if another process has it, or wrote a checkpoint since the folder was opened; UserError
        if the folder cannot be written.
        """
        lock = FileLock(self.path / LOCK_FILE, blocking=False, fallback_to_soft=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise CheckpointError(
                f"another process is training in --out {self.path}: wait for it or stop it, or give a new folder"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise _cannot_write(self.path, error) from error
            logger.warning("%s is on a file system without locks: make sure that one run at a time uses it", self.path)
        if list_checkpoints(self.checkpoints) != self._present:
            lock.release()
            raise CheckpointError(f"another process has just trained in --out {self.path}: run the command again")
        return lock

    def create(self, identity: RunIdentity) -> None:
        """Writes `run.json` into the locked folder, after removing what killed runs have left and setting aside what
        came after the checkpoint that the run goes back to. Raises UserError if it cannot be written.
        """
        data = {"identity": identity.data_identity, "path": identity.data_path}
        text = json.dumps({"command": identity.command, "data": data, "config": identity.sections}, indent=1)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            clear_staging(self.checkpoints)
            best_model.recover(self.best)
            for leftover in (path for pattern in OWN_LEFTOVERS for path in self.path.glob(pattern)):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            if self.goes_back:
                self._set_aside(0 if self.resume_from is None else self.resume_from.step)
            staged = self.path / f".{RUN_FILE}-{os.getpid()}"
            staged.write_text(text + "\n")
            flush(staged)
            staged.replace(self.path / RUN_FILE)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def _set_aside(self, step: int) -> None:
        """Moves checkpoints and samples later than `step` to a folder of their own, with copies of the metrics and of
        `run.json`, which says at what learning rates they were made; otherwise the next `--resume auto` would continue
        from them.
        """
        later = [path for path in list_checkpoints(self.checkpoints) if step_of(path) > step]
        if not later and all(line["step"] <= step for line in read_metrics(self.metrics)):
            return
        aside = next(path for n in itertools.count(1) if not (path := self.path / f"set_aside_{n}").exists())
        for name in ("checkpoints", "samples"):
            (aside / name).mkdir(parents=True)
        for file in (self.path / RUN_FILE, self.metrics):
            if file.exists():
                shutil.copyfile(file, aside / file.name)
        for path in later:
            path.rename(aside / "checkpoints" / path.name)
        best = best_model.read_best(self.best)
        if best is not None and best.step > step:
            self.best.rename(aside / self.best.name)
        for path in list_checkpoints(self.samples):  # folders of the same names
            if step_of(path) > step:
                path.rename(aside / "samples" / path.name)
        logger.warning(
            "the run goes back to step %d: what came after it is now in %s, whose checkpoints --resume takes; delete "
            "it if you do not need it",
            step,
            aside,
        )


def _holds_anything(path: Path) -> bool:
    """Whether a path that is not a run is anything but an empty folder; one that was only locked is empty, and so is
    one of a run that was killed before it was begun.
    """
    own = (LOCK_FILE, *OWN_LEFTOVERS)
    return not path.is_dir() or not all(any(child.match(name) for name in own) for child in path.iterdir())


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"--out {path} cannot be written: {error.strerror}; give a writable folder")


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
    alike = existing.steps_alike(identity)
    if run != path and alike is not None and checkpoint.step > alike:
        earlier = any(step_of(other) <= alike for other in list_checkpoints(run / "checkpoints"))
        raise CheckpointError(
            f"--resume {path}: with another training.steps or training.decay_steps the learning rates differ from step "
            f"{alike} on: give an earlier checkpoint" + (f", or {run} for the newest of them" if earlier else "")
        )
    return _same_rates(run, checkpoint, existing, identity)


def _same_rates(run: Path, checkpoint: Checkpoint, existing: RunIdentity, identity: RunIdentity) -> Checkpoint:
    """`checkpoint`, or an earlier one where its steps would have had other learning rates in the run `identity`."""
    alike = existing.steps_alike(identity)
    if alike is not None and checkpoint.step > alike:
        earlier = newest_checkpoint(run / "checkpoints", alike)
        if earlier is None:
            raise CheckpointError(
                f"{run}: with another training.steps or training.decay_steps the learning rates differ from step "
                f"{alike} on, and no checkpoint from before is left: give those of before, or start a new run with its "
                "weights by --init-from"
            )
        checkpoint = earlier
    steps = identity.sections.get("training", {}).get("steps", checkpoint.step)
    if checkpoint.step > steps:
        raise CheckpointError(
            f"{run} has {checkpoint.step} steps, more than training.steps (={steps}): give more steps, or the path of "
            "an earlier checkpoint as --resume"
        )
    return checkpoint


def _read_identity(path: Path) -> RunIdentity | None:
    if not (path / RUN_FILE).is_file():
        return None
    try:
        data = json.loads(read_small_text(path / RUN_FILE))
        training = data["config"].get("training", {})
        if any(not isinstance(training.get(name, 0), int) for name in ("steps", "decay_steps")):
            raise ValueError("its training has no numbers of steps")
        return RunIdentity(data["command"], data["config"], data["data"]["identity"], data["data"]["path"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / RUN_FILE} is damaged ({error!r}): give a new folder") from error
