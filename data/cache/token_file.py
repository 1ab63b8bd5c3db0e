"""Token files: tokens from memory, samples of a prior or imported tokens, in the format of a cache.

The plan of such a cache describes rows, not videos: a sample with its seed, a row of an imported array.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.layout import CacheHeader, Kind, choose_shard_rows
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.plan_config import plan_sha256
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.data.splits import GROUP_MARK, divide, split_of_name
from tokenreel.errors import CacheError, DataError

NOT_STATED = "framing_not_stated"  # key of the provenance: fields of the framing that nobody stated


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

    `sources`: a description of each row, with an `id` and optionally `seed`, `split`, `label` (an index into
    `plan["classes"]`). `spec` is the tokenizer's; its clip length becomes that of `tokens`. Raises CacheError if a
    token is outside its codebook or `path` contains anything else.
    """
    spec = spec_of_tokens(spec, tokens)
    rows = len(sources)
    _require_tokens(spec, tokens, rows)
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
        raise CacheError(f"{path} is damaged immediately after it was written: check the disk")
    return cache_id


def sample_sources(cache: TokenCache, rows: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """The `sources` of samples that continue the clips `rows` (int64 [n]) of `cache`, one each: the seed, and the video
    and first frame of the clip.
    """
    videos, first_frames = cache.source_ids(rows), cache.column("first_frame", rows).tolist()
    return [
        {"id": f"sample-{i:06d}", "seed": seed, "sample": i, "row": row, "video": video, "first_frame": first}
        for i, (row, video, first) in enumerate(zip(rows.tolist(), videos, first_frames, strict=True))
    ]


def spec_of_tokens(spec: TokenSpec, tokens: Mapping[str, np.ndarray]) -> TokenSpec:
    """`spec` with the streams and the clip length of `tokens`. Raises CacheError for other shapes."""
    streams = []
    for name, indices in tokens.items():
        stream = spec.stream(name)
        if indices.ndim != 5 or indices.shape[2:] != stream.shape[1:]:
            raise CacheError(f"stream {name!r}: tokens must be [N, t, *{stream.shape[1:]}], got {indices.shape}")
        streams.append(dataclasses.replace(stream, grid=(indices.shape[1], *stream.grid[1:])))
    levels = [stream for stream in streams if stream.role == "level"]
    frames = spec.frames_of_step(levels[0].grid[0] - 1, levels[0]).stop if levels else spec.frames
    return dataclasses.replace(spec, streams=tuple(streams), frames=frames)


@dataclass(frozen=True)
class RowNames:
    """What is known of the rows of imported tokens: N names each, or None."""

    labels: Sequence[str] | None = None  # classes
    splits: Sequence[str] | None = None  # as data sets call them: train, val, test, ...
    groups: Sequence[str] | None = None  # rows of one group, such as clips of one video, are in one split


def write_foreign_tokens(
    path: Path,
    tokens: np.ndarray,
    framing: Framing,
    codebook_size: int | None = None,
    stride: int = 1,
    validation: float = 0.1,
    seed: int = 0,
    names: RowNames | None = None,
    not_stated: Collection[str] = (),
) -> str:
    """Writes tokens of another program, integers [N, t, h, w] or [N, t, h, w, q], as a cache; returns its cache_id.

    `codebook_size` is K, one more than the largest token if None; `stride`: frames per code step. The tokenizer is
    unknown: the fingerprint is the tokens' own hash. Without splits in `names` a share `validation` of the rows, or of
    their groups, is held out. `not_stated`: the fields of `framing` that are only assumed, which the provenance says.
    Raises DataError for other arrays, for names of another number, and for a group in two splits.
    """
    tokens = tokens[..., None] if tokens.ndim == 4 else tokens
    if tokens.ndim != 5 or tokens.dtype.kind not in "iu" or tokens.size == 0 or tokens.min() < 0:
        raise DataError(
            f"tokens must be integers [N, t, h, w] or [N, t, h, w, q], >= 0; got {tokens.dtype} {tokens.shape}"
        )
    _, t, h, w, q = tokens.shape
    stream = StreamSpec("video", (t, h, w), codebook_size or int(tokens.max()) + 1, q, stride)
    digest = hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i8").tobytes()).hexdigest()
    classes, sources = _foreign_sources(len(tokens), names or RowNames(), validation, seed)
    spec = TokenSpec((stream,), t * stride, framing)
    provenance = {NOT_STATED: sorted(not_stated)} if not_stated else {}
    plan = {"classes": classes} if classes else {}
    return write_token_file(path, spec, {"video": tokens}, f"foreign-{digest}", sources, provenance, plan, kind="codes")


def _foreign_sources(
    rows: int, names: RowNames, validation: float, seed: int
) -> tuple[list[str], list[dict[str, Any]]]:
    """The classes, and the description of each row."""
    for what, values in (("labels", names.labels), ("splits", names.splits), ("groups", names.groups)):
        if values is not None and len(values) != rows:
            raise DataError(f"there are {len(values)} {what} for {rows} rows of tokens: give one for each")
    ids = [f"row-{row:08d}" for row in range(rows)]
    declared: dict[str, str | None] = dict.fromkeys(ids)
    if names.splits is not None:
        declared = {name: split_of_name(split, name) for name, split in zip(ids, names.splits, strict=True)}
    groups = ids if names.groups is None else [GROUP_MARK + name for name in names.groups]
    splits = divide(declared, dict(zip(ids, groups, strict=True)), validation, seed)
    sources: list[dict[str, Any]] = [{"id": name, "split": splits[name]} for name in ids]
    classes = sorted(set(names.labels or ()))
    numbers = {name: number for number, name in enumerate(classes)}
    for row, source in enumerate(sources):
        if names.labels is not None:
            source["label"] = numbers[names.labels[row]]
        if names.groups is not None:
            source["group"] = names.groups[row]
    return classes, sources


def _require_tokens(spec: TokenSpec, tokens: Mapping[str, np.ndarray], rows: int) -> None:
    for name, indices in tokens.items():
        if len(indices) != rows:
            raise CacheError(f"stream {name!r} has {len(indices)} rows, expected {rows}, one for each source")
        if rows and (indices.min() < 0 or indices.max() >= spec.stream(name).codebook_size):
            raise CacheError(
                f"stream {name!r} has tokens from {indices.min()} to {indices.max()}, expected 0 to "
                f"{spec.stream(name).codebook_size - 1}"
            )
