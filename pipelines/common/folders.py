"""Output folders of commands, and which kind of artifact a folder holds."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

from tokenreel.errors import DataError, UserError


def fresh_folder(path: Path, flag: str = "--out") -> Path:
    """Creates `path`, which may exist if it is empty. Raises UserError if it is not empty or cannot be written."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{flag} {path} already exists and is not empty: give a new folder, or remove it first")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{flag} {path} cannot be created ({error.strerror}): give a folder that you may write to"
        ) from error
    if not os.access(path, os.W_OK):
        raise UserError(f"{flag} {path} is read-only: give a writable folder")
    return path


RUN_FILE = "run.json"  # of a run folder: the command, its data and its configuration


class ArtifactKind(Enum):
    CACHE = "token cache"
    RUN = "training run"
    CHECKPOINT = "checkpoint"
    MODEL = "saved model"


_MARKER_FILES = (  # runs before models, because a run folder also holds the exported model
    (ArtifactKind.CACHE, "zarr.json"),
    (ArtifactKind.CACHE, "plan.json"),
    (ArtifactKind.RUN, RUN_FILE),
    (ArtifactKind.CHECKPOINT, "state.json"),
    (ArtifactKind.MODEL, "config.json"),
)


def artifact_kind(path: Path) -> ArtifactKind:
    """The kind of artifact in the folder `path`. Raises DataError if there is none."""
    for kind, name in _MARKER_FILES:
        if (path / name).is_file():
            return kind
    problem = "holds no cache, token file, run, checkpoint or saved model" if path.exists() else "does not exist"
    raise DataError(f"{path} {problem}: give the folder that a command wrote with --out")
