"""What `same_results` records of a job: hashes of the bytes that it wrote, and the numbers among its losses and scores.

Each function takes the folder that a command wrote and the summary that it printed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

Entries = dict[str, Any]  # name -> a hash, or numbers

DURATION = "second"  # in the names of numbers that are times or rates


def of_files(out: Path, _: Mapping[str, Any]) -> Entries:
    return {str(path.relative_to(out)): sha256(path.read_bytes()) for path in out.rglob("*") if path.is_file()}


def of_streams(out: Path, _: Mapping[str, Any]) -> Entries:
    """All files of each stream, by their paths below the folder of streams."""
    return of_files(out / "streams", {})


def of_samples(out: Path, summary: Mapping[str, Any]) -> Entries:
    return {**of_streams(out, summary), "summary": numbers(summary)}


def of_arrays(out: Path, _: Mapping[str, Any]) -> Entries:
    arrays = {path.stem: np.load(path) for path in out.glob("*.npy")}
    return {name: [list(array.shape), sha256(array.tobytes())] for name, array in arrays.items()}


def of_scores(out: Path, _: Mapping[str, Any]) -> Entries:
    return {"scores": numbers(json.loads((out / "scores.json").read_text()))}


def of_training(out: Path, summary: Mapping[str, Any]) -> Entries:
    """Losses and scores, the trained weights, and the token files with samples of the last step."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    entries: Entries = {"losses": [numbers(json.loads(line)) for line in lines], **of_model(out, summary)}
    for streams in out.rglob("streams"):
        entries |= {f"samples/{name}": digest for name, digest in of_streams(streams.parent, {}).items()}
    return entries


def of_model(out: Path, summary: Mapping[str, Any]) -> Entries:
    """Weights by value, whatever the tensors are called and whichever file holds them."""
    tensors = [tensor for path in out.glob("*.safetensors") for tensor in load_file(path).values()]
    hashes = sorted(sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()) for tensor in tensors)
    return {"weights": sha256("".join(hashes).encode()), "tensors": len(tensors), "summary": numbers(summary)}


def of_preset(_: Path, summary: Mapping[str, Any]) -> Entries:
    return {"numbers": numbers(summary)}


def numbers(document: Any) -> list[float]:
    """All numbers in plain data in ascending order, except those that are named as times."""
    return sorted(_numbers(document))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = [item for name, item in value.items() if DURATION not in name]
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


RECORDS: dict[str, Callable[[Path, Mapping[str, Any]], Entries]] = {
    "preset": of_preset,
    "videos": of_files,
    "controls": of_model,
    "tokenizer": of_training,
    "tokens": of_streams,
    "prior": of_training,
    "sample": of_samples,
    "decode": of_arrays,
    "reconstruct": of_scores,
    "generate": of_arrays,
}
