"""How weights are written: readable by those whom the umask allows, and with an error that a user can act on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

from tokenreel.errors import HubError


def write_weights(model: nn.Module, path: Path) -> None:
    """Raises HubError if memory or the disk is full, or the folder cannot be written."""
    try:
        save_model(model, str(path), metadata={"format": "pt"})
    except (OSError, SafetensorError, MemoryError) as error:
        raise HubError(
            f"{path} cannot be written: {error or 'out of memory'}; free disk space or memory and run the same command "
            "again"
        ) from error
    set_default_mode(path)


def set_default_mode(path: Path) -> None:
    """Gives a file the mode of a new one, 0666 less the umask: what safetensors writes only its owner can read."""
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    with contextlib.suppress(PermissionError):  # file systems without modes
        path.chmod(0o666 & ~umask)
