"""Where a command writes: a folder of its own, never one that already holds something."""

from __future__ import annotations

import os
from pathlib import Path

from tokenreel.errors import UserError


def fresh_folder(path: Path, flag: str = "--out") -> Path:
    """Makes `path`, or takes it if it is empty. Raises UserError if it holds anything or cannot be written."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{flag} {path} already holds something: give a new folder, or remove it first")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{flag} {path} cannot be made: {error.strerror}; give a folder that you may write to"
        ) from error
    if not os.access(path, os.W_OK):
        raise UserError(f"{flag} {path} is read-only: give a folder that you may write to")
    return path
