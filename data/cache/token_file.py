"""Token files: codes that are in memory already, samples of a prior or codes made elsewhere, in the cache's own format.

The plan of such a cache holds no videos but what each row is: a sample with its seed, a row of a foreign array.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.layout import CacheHeader, Kind, choose_shard_rows
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.plan_config import plan_sha256
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.data.splits import select_validation
from tokenreel.errors import CacheError, DataError


def write_token_file(
    path: Path,
    spec: TokenSpec,
    tokens: Mapping[str, np.ndarray],
    code_fingerprint: str,
    sources: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
    kind: Kind = "samples",
) -> str:
    """Writes `tokens` (by stream [N, t, h, w, q], any t) as a sealed cache and returns its cache_id.

    `sources`: for each row what it is, with an `id`, and where it matters `seed`, `split`, `label` (an index into
    `plan["classes"]`). `spec` is the tokenizer's; its clip length becomes that of `tokens`. Raises CacheError where a
    code is beyond its codebook or `path` holds something else.
    """
    spec = spec_of_tokens(spec, tokens)
    rows = len(sources)
    _require_codes(spec, tokens, rows)
    document = {**(plan or {}), "videos": [dict(source) for source in sources]}
    header = CacheHeader(
        kind=kind,
        spec=spec,
        row_frames=spec.frames,
        rows=rows,
        shard_rows=choose_shard_rows(spec, spec.frames, rows),
        code_fingerprint=code_fingerprint,
        plan_sha256=plan_sha256(document),
        provenance=dict(provenance or {}),
    )
    arrays: dict[str, np.ndarray] = {
        **tokens,
        "valid": np.ones(rows, np.uint8),
        "label": np.array([source.get("label", -1) for source in sources], np.int32),
        "source": np.arange(rows, dtype=np.int32),
        "first_frame": np.zeros(rows, np.int64),
    }
    writer = CacheWriter.create(path, header, document, origin={})
    for shard in writer.pending():
        part = header.columns["valid"].rows_of(shard)
        writer.put(shard, {name: values[part.start : part.stop] for name, values in arrays.items()})
    cache_id = writer.seal()
    if cache_id is None:
        raise CacheError(f"{path} is damaged as soon as it is written: check the disk")
    return cache_id


def sample_sources(cache: TokenCache, rows: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """The `sources` of samples, of which number i continues the clip `rows[i]` (int64 [n]) of `cache`: the seed it was
    sampled with, and the video and first frame of that clip.
    """
    videos, first_frames = cache.source_ids(rows), cache.column("first_frame")[rows].tolist()
    return [
        {"id": f"sample-{i:06d}", "seed": seed, "sample": i, "row": row, "video": video, "first_frame": first}
        for i, (row, video, first) in enumerate(zip(rows.tolist(), videos, first_frames, strict=True))
    ]


def spec_of_tokens(spec: TokenSpec, tokens: Mapping[str, np.ndarray]) -> TokenSpec:
    """`spec` with the streams and the clip length that `tokens` has. Raises CacheError for other shapes."""
    streams = []
    for name, codes in tokens.items():
        stream = spec.stream(name)
        if codes.ndim != 5 or codes.shape[2:] != stream.shape[1:]:
            raise CacheError(f"stream {name!r}: codes are [N, t, *{stream.shape[1:]}], got {codes.shape}")
        streams.append(dataclasses.replace(stream, grid=(codes.shape[1], *stream.grid[1:])))
    levels = [stream for stream in streams if stream.role == "level"]
    frames = spec.frames_of_step(levels[0].grid[0] - 1, levels[0]).stop if levels else spec.frames
    return dataclasses.replace(spec, streams=tuple(streams), frames=frames)


def codes_to_cache(
    path: Path,
    codes: np.ndarray,
    framing: Framing,
    codebook: int | None = None,
    stride: int = 1,
    validation: float = 0.1,
    seed: int = 0,
) -> str:
    """Writes codes of another program, integers [N, t, h, w] or [N, t, h, w, q], as a cache; returns its cache_id.

    `codebook` is K, one more than the largest code if None; `stride` frames a code step. What made the codes is not
    known: their fingerprint is their own hash, and a split draws single rows. Raises DataError for anything else.
    """
    codes = codes[..., None] if codes.ndim == 4 else codes
    if codes.ndim != 5 or codes.dtype.kind not in "iu" or codes.size == 0 or codes.min() < 0:
        raise DataError(
            f"codes must be integers [N, t, h, w] or [N, t, h, w, q], >= 0; got {codes.dtype} {codes.shape}"
        )
    _, t, h, w, q = codes.shape
    stream = StreamSpec("video", (t, h, w), codebook or int(codes.max()) + 1, q, stride)
    digest = hashlib.sha256(np.ascontiguousarray(codes, dtype="<i8").tobytes()).hexdigest()
    ids = [f"row-{row:08d}" for row in range(len(codes))]
    held_out = select_validation(ids, validation, seed)
    sources = [{"id": name, "split": "validation" if name in held_out else "train"} for name in ids]
    spec = TokenSpec((stream,), t * stride, framing)
    return write_token_file(path, spec, {"video": codes}, f"foreign-{digest}", sources, kind="codes")


def _require_codes(spec: TokenSpec, tokens: Mapping[str, np.ndarray], rows: int) -> None:
    for name, codes in tokens.items():
        if len(codes) != rows:
            raise CacheError(f"stream {name!r} has {len(codes)} rows, the sources are {rows}")
        if rows and (codes.min() < 0 or codes.max() >= spec.stream(name).codebook_size):
            raise CacheError(
                f"stream {name!r} has tokens from {codes.min()} to {codes.max()}, its codebook only "
                f"{spec.stream(name).codebook_size}"
            )
