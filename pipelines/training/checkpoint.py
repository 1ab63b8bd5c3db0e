"""Checkpoints, written atomically: a folder each, which either exists completely or not at all.

A checkpoint is staged next to its final path, every file is flushed to disk, a manifest with sizes and hashes is
written last, one rename publishes it, and only then are older ones pruned. Tensors are stored as safetensors, all else
as JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from tokenreel.config import read_small_text
from tokenreel.data.cache.files import flush
from tokenreel.errors import CheckpointError
from tokenreel.saving import set_default_mode

STATE, MANIFEST, PREFIX, STAGING = "state.json", "manifest.json", "step_", ".staging-"
FORMAT = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: file stem -> name -> tensor, on the CPU when read. `state`: plain JSON data."""

    step: int  # completed optimizer steps
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"{PREFIX}{step:08d}"


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int, protected: Collection[Path] = ()) -> Path:
    """Publishes a checkpoint in `folder`, then deletes all but the newest `keep` up to it. Returns its path.

    Neither it nor one of `protected` is ever deleted, nor a later one, which can only be damaged.

    Raises CheckpointError if it cannot be written (full disk, read-only folder); earlier checkpoints are kept.
    """
    final = checkpoint_path(folder, checkpoint.step)
    staging = folder / f"{STAGING}{checkpoint.step}-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_staging(folder)
        staging.mkdir()
        _stage(staging, checkpoint)
        if final.exists():  # damaged, or later than the checkpoint that the run was resumed from
            final.rename(folder / f"{STAGING}replaced-{uuid.uuid4().hex}")
        staging.rename(final)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {checkpoint.step} cannot be written to {folder}: {error}. Earlier checkpoints are "
            "intact: free disk space and run the same command again"
        ) from error
    older = [path for path in list_checkpoints(folder) if step_of(path) < checkpoint.step]
    for number, old in enumerate(older[: max(0, len(older) - (keep - 1))]):
        if old not in protected:  # renamed first, so that a kill leaves no half of a checkpoint
            old.rename(folder / f"{STAGING}pruned-{number}-{uuid.uuid4().hex}")
    clear_staging(folder)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Paths of the published checkpoints, oldest first; they may be damaged."""
    named = (path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal())
    return sorted((path for path in named if path.is_dir()), key=step_of)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises CheckpointError, naming the file, if the size or hash of any file differs from the manifest."""
    manifest = _read_json(path / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path / MANIFEST} has format {manifest.get('format')!r}, expected {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files:
        raise CheckpointError(f"{path / MANIFEST} is damaged: it does not list the files of a checkpoint")
    for name, expected in files.items():
        if _describe(path / name) != expected:
            raise CheckpointError(f"{path / name} is damaged: its size or hash differs from {MANIFEST}")
    state = _read_json(path / STATE)
    step = state.pop("step", None)
    if not isinstance(step, int):
        raise CheckpointError(f"{path / STATE} is damaged: it states no step")
    names = [name for name in files if name.endswith(".safetensors")]
    try:
        return Checkpoint(step, {Path(name).stem: safetensors.torch.load_file(path / name) for name in names}, state)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def newest_checkpoint(folder: Path, up_to: int | None = None) -> Checkpoint | None:
    """The newest intact checkpoint, or None if there are no checkpoints; damaged newer ones are skipped with a warning.

    Only those of at most `up_to` steps count, where it is given. Raises CheckpointError if all of them are damaged.
    """
    damaged: list[str] = []
    for path in reversed([path for path in list_checkpoints(folder) if up_to is None or step_of(path) <= up_to]):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            logger.warning("skipped: %s", error)
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(f"no checkpoint in {folder} is intact: {'; '.join(damaged)}. Start again in a new folder")
    return None


def _stage(staging: Path, checkpoint: Checkpoint) -> None:
    for stem, tensors in checkpoint.tensors.items():
        # cloned: safetensors refuses tensors that share memory, such as tied weights
        plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(plain, staging / f"{stem}.safetensors")
        set_default_mode(staging / f"{stem}.safetensors")
    _write_json(staging / STATE, {"step": checkpoint.step, **checkpoint.state})
    files = sorted(staging.iterdir())
    for path in files:
        flush(path)
    _write_json(staging / MANIFEST, {"format": FORMAT, "files": {path.name: _describe(path) for path in files}})
    flush(staging / MANIFEST)
    flush(staging)


def clear_staging(folder: Path) -> None:
    """Removes what killed writers have left; nobody else may be writing."""
    for path in folder.glob(f"{STAGING}*"):
        shutil.rmtree(path)


def _describe(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is damaged: expected a JSON object, got {type(document).__name__}")
    return document
