"""Folders of artefacts: where a command may write, and what kind of artefact a folder holds."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

from tokenreel.errors import DataError, UserError


def fresh_folder(path: Path, flag: str = "--out") -> Path:
    """Makes `path`, or takes it if it is empty. Raises UserError if it holds anything or cannot be written."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{flag} {path} already exists and is not empty: give a new folder, or remove it first")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{flag} {path} cannot be created ({error.strerror}): give a folder that you may write to"
        ) from error
    if not os.access(path, os.W_OK):
        raise UserError(f"{flag} {path} is read-only: give a folder that you may write to")
    return path


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
