"""`tokenreel inspect`: what a cache, token file, run or saved model holds, and pictures of tokens.

Needs torch for saved models only.

Quick for a cache of any size: it reads metadata, small columns and a few thousand rows of tokens at most.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.files import read_json
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import NOT_STATED
from tokenreel.data.sources.open import open_source
from tokenreel.errors import ConfigError, DataError
from tokenreel.pipelines.common.codebook_usage import codebook_usage, count_tokens
from tokenreel.pipelines.common.folders import RUN_FILE, ArtifactKind, artifact_kind
from tokenreel.pipelines.common.plans import require_nothing_skipped
from tokenreel.pipelines.requests.artifacts import InspectRequest

NO_SPLIT = "no split stated"
TAIL_BYTES = 1 << 20  # of the metrics, in which the last line is looked for


def run(request: InspectRequest) -> dict[str, Any]:
    """Describes the data set `data`, or the folder `path`; writes pictures of the tokens of `num_clips` clips into the
    new folder `pictures`.

    Raises DataError where the folder is of no known kind or there are no videos, ConfigError for pictures of what holds
    no tokens, CacheError where a cache is damaged.
    """
    if request.data is not None:
        return _inspect_data(request.data, request.strict)
    path = request.path
    assert path is not None
    kind = artifact_kind(path)
    if kind is ArtifactKind.CACHE:
        return _inspect_cache(path, request)
    if request.pictures is not None:
        raise ConfigError(f"--pictures needs tokens, and {path} is a {kind.value}: give a token cache or a token file")
    return {"path": str(path), "kind": kind.value, **_describe(path, kind)}


def _inspect_data(location: str, strict: bool) -> dict[str, Any]:
    """What a data set holds, without opening a video. Raises DataError if `strict` and something is skipped."""
    source = open_source(location)
    if strict:
        require_nothing_skipped(location, source.inventory)
    splits = Counter(entry.split or NO_SPLIT for entry in source.entries)
    labels = Counter(entry.label for entry in source.entries if entry.label is not None)
    return {
        "data": location,
        "videos": len(source.entries),
        "first_video": source.entries[0].id,
        "splits": dict(sorted(splits.items())),
        "classes": dict(sorted(labels.items())),
        "inventory": source.inventory.to_json(len(source.entries)),
    }


def _inspect_cache(path: Path, request: InspectRequest) -> dict[str, Any]:
    """What a cache or token file holds, sealed or not."""
    cache = TokenCache.open(path, allow_partial=True)
    counted, counters = count_tokens(cache)
    usage = codebook_usage(counters) if counted else {}
    summary = {**_describe_cache(cache), "rows_counted": counted, "codebook_usage": usage}
    if request.pictures is None:
        return summary
    from tokenreel.pipelines.report.code_pictures import write_code_pictures  # imports matplotlib, most of a second

    return {**summary, "pictures": write_code_pictures(cache, counters, request.pictures, request.num_clips)}


def _describe_cache(cache: TokenCache) -> dict[str, Any]:
    sources = cache.plan["videos"]
    splits = sorted({source.get("split", "") for source in sources} - {""})
    labels = cache.labels(cache.rows(stride=1))
    return {
        "path": str(cache.path),
        "kind": f"token cache of {cache.kind}",
        "sealed": cache.cache_id is not None,
        "cache_id": cache.cache_id,
        "rows": cache.row_count,
        "valid_rows": int(cache.column("valid").sum()),
        "splits": {split: len(cache.rows(split, stride=1)) for split in splits},
        "classes": {name: int(np.sum(labels == i)) for i, name in enumerate(cache.classes)},
        "sources": len(sources),
        "excluded": [f"{source['id']}: {source['excluded']}" for source in sources if "excluded" in source][:20],
        "frames": cache.spec.frames,
        "time": cache.spec.time,
        "framing": _framing(cache),
        "streams": {stream.name: _stream(cache, stream.name) for stream in cache.spec.streams},
        "shards": f"{len(cache.shards)} of {cache.header.shards}",
        "shard_rows": cache.header.shard_rows,
        "bytes": sum(map(cache.header.bytes_of, cache.shards)),
        "code_fingerprint": cache.code_fingerprint,
        "provenance": {key: value for key, value in cache.provenance.items() if key not in ("tokenizer", NOT_STATED)},
        "origin": dict(cache.origin),
    }


def _framing(cache: TokenCache) -> dict[str, Any] | str:
    """What is known of it: of imported tokens only what was stated."""
    assumed = cache.provenance.get(NOT_STATED)
    framing: dict[str, Any] = cache.spec.to_json()["framing"]
    if not isinstance(assumed, list):
        return framing
    return {name: value for name, value in framing.items() if name not in assumed} or "not stated"


def _stream(cache: TokenCache, name: str) -> str:
    stream, layout = cache.spec.stream(name), cache.header.streams[name]
    return f"{stream.role}, {layout.dtype.name} {list(layout.row_shape)} per row, codebook size {stream.codebook_size}"


def _describe(path: Path, kind: ArtifactKind) -> dict[str, Any]:
    if kind is ArtifactKind.CHECKPOINT:
        step = read_json(path / "state.json").get("step")
        if not isinstance(step, int):
            raise DataError(
                f"{path}/state.json is damaged: it states no step; `tokenreel verify {path}` checks the rest"
            )
        return {"step": step}
    described: dict[str, Any] = {}
    if kind is ArtifactKind.RUN:
        checkpoints = sorted(folder.name for folder in (path / "checkpoints").glob("step_*"))
        described = {"run": read_json(path / RUN_FILE), "checkpoints": checkpoints, **_last_metrics(path)}
    if (path / "config.json").is_file():
        described["model"] = read_json(path / "config.json")
        from tokenreel.pipelines.artifacts.verification import count_parameters  # imports torch

        described["parameters"] = count_parameters(path)
    return described


def _last_metrics(path: Path) -> dict[str, Any]:
    """The newest line of the run's metrics; one that a crash cut short, or that is damaged, is ignored."""
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        return {}
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - TAIL_BYTES))
        lines = file.read(TAIL_BYTES).splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError, RecursionError):  # not JSON
            if isinstance(found := json.loads(line), dict):
                return {"last_metrics": found}
    return {}
