"""What a folder holds, by the files that only one kind of folder has."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from tokenreel.errors import DataError


class PathKind(Enum):
    CACHE = "token cache"
    RUN = "training run"
    CHECKPOINT = "checkpoint"
    MODEL = "saved model"


_MARKS = (  # a run folder also holds the exported model, so it is asked for first
    (PathKind.CACHE, "zarr.json"),
    (PathKind.CACHE, "plan.json"),
    (PathKind.RUN, "run.json"),
    (PathKind.CHECKPOINT, "state.json"),
    (PathKind.MODEL, "config.json"),
)


def kind_of(path: Path) -> PathKind:
    """Raises DataError where `path` holds nothing that tokenreel writes."""
    for kind, mark in _MARKS:
        if (path / mark).is_file():
            return kind
    what = "holds no cache, token file, run, checkpoint or saved model" if path.exists() else "does not exist"
    raise DataError(f"{path} {what}: give the folder that a command wrote with --out")
