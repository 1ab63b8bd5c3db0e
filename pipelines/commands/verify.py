"""`tokenreel verify`: is a cache, token file, run or saved model whole? Reads every byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenreel.data.cache.verify import verify_cache
from tokenreel.pipelines.common.folders import ArtifactKind, artifact_kind


def run(*, path: Path) -> dict[str, Any]:
    """The summary of a whole thing. Raises the error of its kind, naming each damaged file, where it is not whole."""
    kind = artifact_kind(path)
    if kind is ArtifactKind.CACHE:
        return verify_cache(path)
    from tokenreel.pipelines.artifacts.verification import (  # these import torch
        verify_checkpoint,
        verify_model,
        verify_run,
    )

    verify = {
        ArtifactKind.RUN: verify_run,
        ArtifactKind.CHECKPOINT: verify_checkpoint,
        ArtifactKind.MODEL: verify_model,
    }
    return verify[kind](path)
