"""Checks that a cache is intact: all documents, file hashes and chunk checksums, and every token's codebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.layout import ArrayLayout
from tokenreel.data.cache.manifest import MANIFEST, Commit, Manifest, StoredFile
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.shard import ShardedArray
from tokenreel.errors import CacheError

MAX_LISTED = 10  # damaged files named in the message


@dataclass(frozen=True)
class Damage:
    """A damaged file of a shard."""

    file: str
    shard: int
    first_row: int
    last_row: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file} (rows {self.first_row} to {self.last_row}): {self.problem}"


def find_damage(cache: TokenCache) -> list[Damage]:
    """The damaged files: reads every byte of the arrays and compares with the manifest (unsealed: the commits)."""
    arrays = {array.key(shard): (array, shard) for array in cache.header.arrays for shard in range(array.shards)}
    found = [damage for file in _stored_files(cache) for damage in _check_file(cache, *arrays[file.key], file)]
    return found or list(_check_rows(cache))


def _stored_files(cache: TokenCache) -> Iterator[StoredFile]:
    if (cache.path / MANIFEST).is_file():
        yield from Manifest.load(cache.path).files
        return
    for shard in sorted(cache.shards):
        yield from Commit.load(cache.path, shard).files


def _check_file(cache: TokenCache, array: ArrayLayout, shard: int, file: StoredFile) -> Iterator[Damage]:
    rows = array.rows_of(shard)
    try:
        chunks = ShardedArray(cache.path, array).damaged_chunks(shard)
    except CacheError as error:
        yield Damage(file.key, shard, rows.start, rows.stop - 1, str(error))
        return
    for chunk in chunks:
        first = min(rows.start + chunk * array.chunk_rows, rows.stop - 1)  # chunks after the last row are fill_value
        last = min(first + array.chunk_rows, rows.stop) - 1
        yield Damage(file.key, shard, first, last, "do not match their checksum")
    if not chunks and not file.matches(cache.path):
        yield Damage(file.key, shard, rows.start, rows.stop - 1, "is intact but differs from what was committed")


def _check_rows(cache: TokenCache) -> Iterator[Damage]:
    """What checksums cannot detect: tokens outside their codebook, or tokens in invalid rows."""
    valid = cache.column("valid")
    for stream in cache.spec.streams:
        array = cache.header.streams[stream.name]
        reader = ShardedArray(cache.path, array)
        for shard in sorted(cache.shards):
            rows = np.array(array.rows_of(shard))
            tokens = reader.read(rows.tolist()).reshape(len(rows), -1)
            limit = np.where(valid[rows] == 1, stream.codebook_size - 1, array.fill_value)
            bad = rows[tokens.max(axis=1) > limit]
            if len(bad):
                problem = f"tokens outside the codebook of {stream.codebook_size}"
                yield Damage(array.key(shard), shard, int(bad[0]), int(bad[-1]), problem)


def verify_cache(path: Path) -> dict[str, Any]:
    """A summary of an intact cache. Raises CacheError, naming files and rows, if any byte has changed."""
    cache = TokenCache.open(path, allow_partial=True)
    damage = find_damage(cache)
    if damage:
        more = f"\n  and {len(damage) - MAX_LISTED} more" if len(damage) > MAX_LISTED else ""
        listing = "".join(f"\n  {one}" for one in damage[:MAX_LISTED])
        raise CacheError(f"{path} is damaged:{listing}{more}\n`tokenreel repair {path}` rewrites damaged shards")
    return {
        "path": str(path),
        "intact": True,
        "sealed": cache.cache_id is not None,
        "cache_id": cache.cache_id,
        "shards": len(cache.shards),
        "missing_shards": cache.header.shards - len(cache.shards),
        "bytes": sum(map(cache.header.bytes_of, cache.shards)),
    }
