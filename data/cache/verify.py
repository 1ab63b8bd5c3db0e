"""Checks that a cache is intact: all documents, file hashes and chunk checksums, and every token's codebook."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.layout import ArrayLayout, CacheHeader
from tokenreel.data.cache.manifest import StoredFile, stored_files
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.shard import DamagedShardError, ShardedArray, ShardMaps, damaged_chunks
from tokenreel.errors import CacheError

MAX_LISTED = 10  # damaged files named in the message

Watch = Callable[[Sequence[StoredFile]], Iterator[StoredFile]]


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


def find_damage(root: Path, header: CacheHeader, shards: Collection[int], watch: Watch = iter) -> list[Damage]:
    """The damaged files: reads every byte of the arrays and compares with the manifest (unsealed: the commits).
    `watch` iterates over the files, and may show how far it is.

    `shards` are those with all files. Raises CacheError if an existing file cannot be read, which is no damage.
    """
    maps = ShardMaps(root, header.arrays, {})  # without hashes, so that a file with damaged chunks can be mapped
    found = [
        damage
        for file in watch(stored_files(root, header))
        for damage in _check_file(maps, *_place(header, file.key), file)
    ]
    return found or list(_check_rows(maps, header, shards))


def _place(header: CacheHeader, key: str) -> tuple[ArrayLayout, int]:
    """The array and the shard whose file has this key."""
    name, _, numbers = key.partition("/c/")
    return next(array for array in header.arrays if array.name == name), int(numbers.partition("/")[0])


def _check_file(maps: ShardMaps, array: ArrayLayout, shard: int, file: StoredFile) -> Iterator[Damage]:
    rows = array.rows_of(shard)
    try:
        chunks = damaged_chunks(array, shard, maps[maps.first_number(array) + shard])
    except DamagedShardError as error:
        yield Damage(file.key, shard, rows.start, rows.stop - 1, str(error))
        return
    for chunk in chunks:
        first = min(rows.start + chunk * array.chunk_rows, rows.stop - 1)  # chunks after the last row are fill_value
        last = min(first + array.chunk_rows, rows.stop) - 1
        yield Damage(file.key, shard, first, last, "do not match their checksum")
    if not chunks and not file.matches(maps.root):
        yield Damage(file.key, shard, rows.start, rows.stop - 1, "is intact but differs from what was committed")


def _check_rows(maps: ShardMaps, header: CacheHeader, shards: Collection[int]) -> Iterator[Damage]:
    """What checksums cannot detect: tokens outside their codebook, or tokens in invalid rows."""
    valid = ShardedArray(maps, header.columns["valid"])
    for stream in header.spec.streams:
        array = header.streams[stream.name]
        reader = ShardedArray(maps, array)
        for shard in sorted(shards):
            part = array.rows_of(shard)
            rows, tokens = np.array(part), reader.read(part).reshape(len(part), -1)
            limit = np.where(valid.read(part) == 1, stream.codebook_size - 1, array.fill_value)
            bad = rows[tokens.max(axis=1) > limit]
            if len(bad):
                problem = f"tokens outside the codebook of {stream.codebook_size}"
                yield Damage(array.key(shard), shard, int(bad[0]), int(bad[-1]), problem)


def verify_cache(path: Path, watch: Watch = iter) -> dict[str, Any]:
    """A summary of an intact cache; `watch` as in `find_damage`.

    Raises CacheError, naming files and rows, if any byte has changed.
    """
    cache = TokenCache.open(path, allow_partial=True)
    damage = find_damage(cache.path, cache.header, cache.shards, watch)
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
