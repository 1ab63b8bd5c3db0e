"""`tokenreel verify`: checks that a cache, token file, run or saved model is intact. Reads every byte."""

from __future__ import annotations

from functools import partial
from typing import Any

from tokenreel.data.cache.verify import verify_cache
from tokenreel.pipelines.common.folders import ArtifactKind, artifact_kind
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.requests.artifacts import VerifyRequest


def run(request: VerifyRequest) -> dict[str, Any]:
    """The summary of an intact artifact. Raises the error of its kind, naming each damaged file, where it is not."""
    path = request.path
    kind = artifact_kind(path)
    if kind is ArtifactKind.CACHE:
        return verify_cache(path, partial(progress, what="verify", unit="file"))
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
