"""`tokenreel verify`: checks that a cache, token file, run or saved model is intact. Reads every byte."""

from __future__ import annotations

from typing import Any

from tokenreel.data.cache.verify import verify_cache
from tokenreel.pipelines.common.folders import PathKind, kind_of
from tokenreel.pipelines.requests.artifacts import VerifyRequest


def run(request: VerifyRequest) -> dict[str, Any]:
    """The summary of an intact artifact. Raises the error of its kind, naming each damaged file, where it is not."""
    path = request.path
    kind = kind_of(path)
    if kind is PathKind.CACHE:
        return verify_cache(path)
    from tokenreel.pipelines.artifacts.verification import (  # these import torch
        verify_checkpoint,
        verify_model,
        verify_run,
    )

    return {PathKind.RUN: verify_run, PathKind.CHECKPOINT: verify_checkpoint, PathKind.MODEL: verify_model}[kind](path)
