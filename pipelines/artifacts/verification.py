"""Is a run folder, a checkpoint or a saved model whole?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenreel.hub import read_document
from tokenreel.pipelines.training.checkpoint import Checkpoint, list_checkpoints, read_checkpoint
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.controls.controls import Controls

_CLASSES: dict[str, type[VideoTokenizer] | type[Prior] | type[Controls]] = {
    "tokenizer": VideoTokenizer,
    "prior": Prior,
    "controls": Controls,
}


def verify_run(path: Path) -> dict[str, Any]:
    """Raises CheckpointError for a damaged checkpoint, HubError for a damaged model."""
    checkpoints = [verify_checkpoint(folder) for folder in list_checkpoints(path / "checkpoints")]
    exported = verify_model(path) if (path / "config.json").is_file() else None
    return {"path": str(path), "whole": True, "checkpoints": len(checkpoints), "exported": exported is not None}


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """Raises CheckpointError where a byte is not what was written."""
    checkpoint: Checkpoint = read_checkpoint(path)
    return {"path": str(path), "whole": True, "step": checkpoint.step}


def verify_model(path: Path) -> dict[str, Any]:
    """Raises HubError where configuration and weights are not those that were saved together."""
    kind = read_document(path)["kind"]
    model = _CLASSES[kind].from_pretrained(path)
    return {"path": str(path), "whole": True, "kind": kind, "weights_fingerprint": model.weights_fingerprint}
