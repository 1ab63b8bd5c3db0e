"""`tokenreel evaluate`: bits/code of a saved prior on a split of a cache, beside the counted baselines."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.data.cache.files import durable_put, read_json, readable_json
from tokenreel.data.cache.reader import TokenCache
from tokenreel.errors import CacheError, ConfigError, DataError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.fingerprints import require_one_tokenizer
from tokenreel.pipelines.common.prior_clips import PriorClips, default_given_frames
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.generation.checks import require_learned
from tokenreel.pipelines.generation.given_tokens import known_controls, require_same_controls
from tokenreel.pipelines.requests.training import EvaluateRequest
from tokenreel.priors.base import Prior

ROWS_AT_ONCE = 64  # clips between two steps of the progress bar
OWN, ROWS = "prior", "rows"
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)  # as numpy finds it

Bits = dict[str, np.ndarray]  # ROWS: int64 [n]; by OWN and the names of the baselines: bits of each clip, float64 [n]


def run(request: EvaluateRequest) -> dict[str, Any]:
    """Scores the clips of a split, or one part of them: clip i is in part i modulo `num_shards`.

    Where `out` holds all parts, or there is one, the summary has the scores of all clips: bits/code with the standard
    error over clips, and of how many clips of how many videos they are. Raises CacheError where the prior was trained
    on tokens of another tokenizer or the cache lacks the split, ConfigError for frames that cannot be given, and
    DataError where `out` holds parts of another evaluation.
    """
    device = choose_device(request.device)
    prior = Prior.from_pretrained(request.prior, revision=request.revision, device=str(device))
    cache = _open_cache(request, prior)
    clips = PriorClips(prior, cache, _given_frames(request, prior))
    rows = cache.rows(request.split)
    if not len(rows):
        raise DataError(f"--split {request.split}: {request.cache} has no readable clip in it")
    if request.num_shards > len(rows):
        raise ConfigError(f"--num-shards (={request.num_shards}) must be at most the number of clips (={len(rows)})")
    about = {
        "prior": prior.weights_fingerprint,
        "cache_id": cache.cache_id,
        "split": request.split,
        "given_frames": clips.given_frames,
        "parts": request.num_shards,
    }
    parts = [rows[part :: request.num_shards] for part in range(request.num_shards)]
    bits, missing = _bits_of(clips, parts[request.shard_index], device), list[int]()
    if request.out is not None:
        bits, missing = _join_parts(request.out, request.shard_index, about, bits, parts)
    videos = len(set(cache.source_ids(bits[ROWS])))
    return {**about, "clips": len(bits[ROWS]), "videos": videos, "missing_parts": missing, **_scores(clips, bits)}


def _open_cache(request: EvaluateRequest, prior: Prior) -> TokenCache:
    """Raises CacheError and ConfigError unless the cache holds what the prior was trained on."""
    cache = TokenCache.open(request.cache)
    found = {f"--cache {request.cache}": cache.code_fingerprint, f"--prior {request.prior}": prior.code_fingerprint}
    require_one_tokenizer(found)
    require_same_controls(prior, cache.spec, known_controls([prior]))
    return cache


def _given_frames(request: EvaluateRequest, prior: Prior) -> int:
    """Raises ConfigError for fewer than in training, as `sample` does: the score would be of tokens not learned."""
    if request.given_frames is not None:
        require_learned(prior, request.given_frames, f"--given-frames (={request.given_frames})")
        return request.given_frames
    return int(prior.about.get("scores", {}).get("given_frames", default_given_frames(prior)))


def _bits_of(clips: PriorClips, rows: np.ndarray, device: torch.device) -> Bits:
    cpu = torch.device("cpu")
    models = {OWN: (clips.prior, device), **{name: (prior, cpu) for name, prior in clips.baselines().items()}}
    parts = [rows[first : first + ROWS_AT_ONCE] for first in range(0, len(rows), ROWS_AT_ONCE)]
    found: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in models}
    for part in progress(iter(parts), "evaluate", f"{ROWS_AT_ONCE} clips", total=len(parts)):
        for name, (model, where) in models.items():
            found[name].append(clips.score(model, part, where).clip_bits)
    return {ROWS: rows, **{name: np.concatenate(bits) for name, bits in found.items()}}


def _scores(clips: PriorClips, bits: Bits) -> dict[str, float | int | None]:
    """Means over clips; the standard error is None of one clip."""
    given = clips.given | clips.prior.given_streams(clips.prior.control_streams)
    tokens = int((~given).sum())
    means = {name: round(float(values.mean() / tokens), 4) for name, values in bits.items() if name != ROWS}
    count = len(bits[ROWS])
    own = means.pop(OWN)
    return {
        "tokens_per_clip": tokens,
        "bits_per_code": own,
        "nats_per_code": round(own * math.log(2), 4),
        "standard_error": round(float(bits[OWN].std(ddof=1) / tokens / count**0.5), 4) if count > 1 else None,
        **{f"bits_per_code_{name}": mean for name, mean in means.items()},
        "bits_per_clip": round(float(bits[OWN].mean()), 1),
    }


def _join_parts(
    out: Path, index: int, about: Mapping[str, Any], bits: Bits, rows: Sequence[np.ndarray]
) -> tuple[Bits, list[int]]:
    """Writes a part into the folder. Returns all parts that are there, and the numbers of those that are not. `rows` of
    each part, int64 [n].
    """
    out.mkdir(parents=True, exist_ok=True)
    document = out / "evaluation.json"
    if document.exists() and _read_about(document) != about:
        raise DataError(f"--out {out} holds parts of another evaluation, see {document.name}: give another folder")
    durable_put(document, readable_json(about))  # complete, as other parts read it at any time
    paths = [out / f"part-{part}-of-{about['parts']}.npz" for part in range(about["parts"])]
    content = io.BytesIO()
    np.savez(content, **bits)  # type: ignore[arg-type]
    durable_put(paths[index], content.getvalue())
    found = [_read_part(path, list(bits), clips) for path, clips in zip(paths, rows, strict=True) if path.exists()]
    joined = {name: np.concatenate([part[name] for part in found]) for name in bits}
    order = np.argsort(joined[ROWS])
    return {name: values[order] for name, values in joined.items()}, [
        part for part, path in enumerate(paths) if not path.exists()
    ]


def _read_about(document: Path) -> dict[str, Any]:
    """Raises DataError where the file is damaged: it alone says which evaluation the parts beside it are of."""
    try:
        return read_json(document)
    except CacheError as error:
        raise DataError(f"{error}: give another folder, and evaluate all parts again") from error


def _read_part(path: Path, names: Sequence[str], rows: np.ndarray) -> Bits:
    """The arrays of a part with the clips `rows`. Raises DataError where the file is damaged."""
    try:
        with path.open("rb") as file:
            archive = np.load(file)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is one array")
            if lacking := [name for name in names if name not in archive]:
                raise ValueError(f"it lacks the array {lacking[0]!r}")
            part = {name: archive[name] for name in names}
        if not np.array_equal(part[ROWS], rows):
            raise ValueError("its clips are not those of the part")
        if odd := [name for name, bits in part.items() if bits.shape != rows.shape or bits.dtype.kind not in "if"]:
            raise ValueError(f"{odd[0]} is not one number for each clip")
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged ({error}): remove it, and evaluate that part again") from error
    return part
