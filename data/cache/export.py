"""Exports token caches as WebDataset shards, for training code that reads these instead of Zarr.

tokens-000000.tar ...   one sample per row: KEY.STREAM.npy, integers [t, h, w, q], for each stream; KEY.json (COLUMNS)
dataset.json            describes the samples: spec, columns, fingerprint of the tokenizer, cache_id, shards

The bytes depend on the cache and the arguments alone: the files contain no time, host or user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tokenreel.config import canonical_json
from tokenreel.data.cache.files import durable_put, flush, readable_json, staged_folder
from tokenreel.data.cache.reader import TokenCache
from tokenreel.errors import CacheError, ConfigError

FORMAT, VERSION = "tokenreel-webdataset", 1
DESCRIPTION = "dataset.json"
SHARD_NAME = "tokens-%06d.tar"  # with the shard's number
SHARD_ROWS = 10_000
COLUMNS = {  # of KEY.json; null where unknown
    "row": "row of the cache",
    "source": "id of the video or sample",
    "first_frame": "frame of the resampled video with which the clip begins",
    "split": "train, validation or test",
    "label": "index into classes",
    "class": "name of the class",
}
READ_BYTES = 16 << 20  # of tokens in memory


def export_webdataset(
    cache: TokenCache,
    out: Path,
    split: str | None = None,
    shard_rows: int = SHARD_ROWS,
    advance: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Writes the valid rows of `split`, or all, to the folder `out`; returns the content of `dataset.json`.

    `shard_rows`: maximum samples per shard; `advance` is called with the number of rows written since the last call.
    For caches of whole videos, samples are windows without overlap, as `cache.rows(split)` returns. `out` appears when
    it is complete. Raises CacheError if it is not empty, for a cache that is not sealed, is damaged or has no valid row
    or split of that name; OSError if `out` cannot be written.
    """
    if shard_rows < 1:
        raise ConfigError(f"shard_rows (={shard_rows}) must be at least 1")
    rows = cache.rows(split)
    _require_exportable(cache, out, rows, split)
    with staged_folder(out) as staging:
        shards = _write_shards(cache, rows, staging, shard_rows, advance or (lambda count: None))
        description = _describe(cache, split, len(rows), shards)
        durable_put(staging / DESCRIPTION, readable_json(description))
        staging.rename(out)
        flush(out.parent)
    return description


def _require_exportable(cache: TokenCache, out: Path, rows: np.ndarray, split: str | None) -> None:
    if out.name in ("", ".."):
        raise CacheError(f"--out {out} has no name of its own, by which a folder could appear: give a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CacheError(f"--out {out} already exists and is not empty: give a new folder, or remove it first")
    if cache.cache_id is None:
        raise CacheError(f"{cache.path} is not sealed: finish it with the tokenize-dataset command that started it")
    if len(rows) == 0:
        raise CacheError(f"{cache.path} has no valid row{'' if split is None else f' in its split {split!r}'}")
    names = [stream.name for stream in cache.spec.streams]
    if len({name.lower() for name in names}) < len(names):
        raise CacheError(
            f"{cache.path}: WebDataset ignores case, but the streams {names} include two that differ in case only"
        )


def _write_shards(
    cache: TokenCache, rows: np.ndarray, folder: Path, shard_rows: int, advance: Callable[[int], object]
) -> dict[str, int]:
    """Writes the shards; returns the number of samples of each, by name."""
    from webdataset.writer import ShardWriter  # imports torch

    shards: dict[str, int] = {}
    opened = ExitStack()  # of the shard that is being written

    def open_shard(name: str) -> BinaryIO:  # not by webdataset, which would run a folder pipe:x as a command
        shards[name] = 0
        return opened.enter_context((folder / name).open("xb"))

    def close_shard(name: str) -> None:
        opened.close()
        flush(folder / name)

    fixed = {"mtime": 0, "mode": 0o644, "user": "", "group": ""}
    form = {"encoder": False, "keep_meta": True, "compress": False, "verbose": 0}  # meta: streams named _x
    with opened, ShardWriter(SHARD_NAME, shard_rows, opener=open_shard, post=close_shard, **form, **fixed) as writer:
        for batch in np.array_split(rows, -(-len(rows) // _rows_at_once(cache))):
            for sample in _samples(cache, batch):
                writer.write(sample)
                shards[writer.fname] += 1
            advance(len(batch))
    return shards


def _rows_at_once(cache: TokenCache) -> int:
    row_bytes = sum(layout.row_bytes for layout in cache.header.streams.values()) * cache.row_steps
    return max(1, READ_BYTES // row_bytes)


def _samples(cache: TokenCache, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    from webdataset.writer import numpy_dumps  # imports torch

    tokens = cache.read(rows)
    for i, values in enumerate(_column_values(cache, rows)):
        arrays = {f"{name}.npy": numpy_dumps(indices[i]) for name, indices in tokens.items()}
        yield {"__key__": f"{rows[i]:08d}", **arrays, "json": canonical_json(dict(zip(COLUMNS, values, strict=True)))}


def _column_values(cache: TokenCache, rows: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """The values of COLUMNS for each row."""
    columns = (cache.column(name, rows).tolist() for name in ("source", "first_frame", "label"))
    for row, source, first_frame, label in zip(rows.tolist(), *columns, strict=True):
        video = cache.plan["videos"][source]
        known = label if label >= 0 else None
        name = cache.classes[label] if 0 <= label < len(cache.classes) else None
        yield row, video["id"], first_frame, video.get("split"), known, name


def _describe(cache: TokenCache, split: str | None, samples: int, shards: dict[str, int]) -> dict[str, Any]:
    of_split = np.array([split in (None, video.get("split")) for video in cache.plan["videos"]])
    invalid = of_split[cache.column("source")] & (cache.column("valid") == 0)
    return {
        "format": FORMAT,
        "version": VERSION,
        "spec": cache.spec.to_json(),
        "code_fingerprint": cache.code_fingerprint,
        "cache_id": cache.cache_id,
        "split": split,
        "classes": list(cache.classes),
        "columns": COLUMNS,
        "samples": samples,
        "invalid_rows": int(invalid.sum()),
        "shards": shards,
    }
