"""Verification of run folders, checkpoints and saved models: all files are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.hub import CONFIG_FILE, WEIGHTS_FILE, PretrainedModel, read_document
from tokenreel.pipelines.training.checkpoint import Checkpoint, list_checkpoints, read_checkpoint
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.controls.controls import Controls
from tokenreel.weights import WeightsFile

_CLASSES: dict[str, type[PretrainedModel]] = {
    "tokenizer": VideoTokenizer,
    "prior": Prior,
    "controls": Controls,
    "generator": VideoGenerator,
}


def verify_run(path: Path) -> dict[str, Any]:
    """Verifies all checkpoints and the exported models. Raises CheckpointError or HubError if one is damaged."""
    checkpoints = [verify_checkpoint(folder) for folder in list_checkpoints(path / "checkpoints")]
    exported, best = (
        (folder / "config.json").is_file() and verify_model(folder)["intact"] for folder in (path, path / "best")
    )
    return {"path": str(path), "intact": True, "checkpoints": len(checkpoints), "exported": exported, "best": best}


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """Raises CheckpointError if a file differs from the checkpoint's manifest."""
    checkpoint: Checkpoint = read_checkpoint(path)
    return {"path": str(path), "intact": True, "step": checkpoint.step}


def verify_model(path: Path) -> dict[str, Any]:
    """Raises HubError if configuration and weights are not those that were saved together."""
    kind = read_document(path)["kind"]
    model = _CLASSES[kind].from_pretrained(path)
    return {"path": str(path), "intact": True, "kind": kind, "weights_fingerprint": model.weights_fingerprint}


def count_parameters(path: Path) -> int:
    """Of a saved model; its weights are not read. Raises HubError or ConfigError if its files do not fit together."""
    document = read_document(path)
    model = _CLASSES[document["kind"]]
    weights = WeightsFile(path / WEIGHTS_FILE, path / CONFIG_FILE)
    network = weights.require_fit(lambda: model.from_document(document), model.half_precision)
    return sum(parameter.numel() for parameter in network.parameters())
