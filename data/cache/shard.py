"""The bytes of one shard: encodes them in memory, and reads rows of the memory-mapped file with all checksums verified.

The file is the one that any Zarr v3 library writes for this layout. Reading a clip through such a library takes
hundreds of times as long as reading the bytes: scheduling, and the index parsed again in each call. Here the index is
compared once with the only one that the layout allows, and the checksums of a batch are verified in a single pass.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import google_crc32c
import numpy as np

from tokenreel.data.cache.file_map import map_file
from tokenreel.data.cache.files import cannot_read, file_sha256
from tokenreel.data.cache.layout import CHECKSUM_BYTES, ArrayLayout
from tokenreel.errors import CacheError

MAX_MAPS = 3 << 10  # files of a cache that stay mapped; the oldest is dropped first
MAX_CHUNKS = 1 << 10  # read at once, which keep dropped files mapped: 4,096 maps in all, of 65,530 that Linux allows


def encode_shard(layout: ArrayLayout, shard: int, values: np.ndarray) -> bytes:
    """The file of a shard whose rows are `values` [rows of the shard, *row_shape]; missing rows of a chunk are filled.

    Raises CacheError for another shape than the array's, or numbers out of range of its dtype.
    """
    if values.shape != (len(layout.rows_of(shard)), *layout.row_shape):
        expected = (len(layout.rows_of(shard)), *layout.row_shape)
        raise CacheError(f"{layout.name}: the rows of shard {shard} must be {expected}, got {values.shape}")
    chunks = layout.stored_chunks(shard)
    rows = np.full(
        (chunks * layout.chunk_rows, *layout.row_shape), layout.fill_value, dtype=layout.dtype.newbyteorder("<")
    )
    rows[: len(values)] = values
    if not np.array_equal(rows[: len(values)], values):
        raise CacheError(f"{layout.name}: values from {values.min()} to {values.max()} do not fit {layout.dtype.name}")
    table = np.empty((chunks, layout.chunk_bytes), dtype=np.uint8)
    table[:, :-CHECKSUM_BYTES] = rows.view(np.uint8).reshape(chunks, -1)
    checksums = np.array([google_crc32c.value(chunk[:-CHECKSUM_BYTES].tobytes()) for chunk in table], dtype="<u4")
    table[:, -CHECKSUM_BYTES:] = checksums.view(np.uint8).reshape(chunks, -1)
    return table.tobytes() + layout.index(shard)


class DamagedShardError(CacheError):
    """A shard file is missing, or does not hold what was committed; `tokenreel repair` writes it again."""


class ShardMaps(dict[int, memoryview]):
    """The mapped shard files of a cache, oldest first: shard `s` of array `a` is number `a * shards + s`.

    A file is mapped when it is first used, and compared with its hash first: chunks that are intact may still be those
    of another place. A map holds no file descriptor. Nothing here refers to what reads, so that maps end with it.
    """

    def __init__(self, root: Path, arrays: Sequence[ArrayLayout], hashes: Mapping[str, str]) -> None:
        """`hashes`: hex sha256 by key of the file; those of files that are not in it are not compared."""
        self.root = root
        self._arrays = tuple(arrays)
        self._shards = arrays[0].shards  # the same for all arrays
        self._hashes = hashes

    def first_number(self, array: ArrayLayout) -> int:
        return self._arrays.index(array) * self._shards

    def __missing__(self, number: int) -> memoryview:
        array, shard = divmod(number, self._shards)
        self[number] = content = self._map(self._arrays[array], shard)
        if len(self) > MAX_MAPS:
            del self[next(iter(self))]
        return content

    def _map(self, layout: ArrayLayout, shard: int) -> memoryview:
        """The mapped file, its size, hash and index checked."""
        key = layout.key(shard)
        path, size, expected = self.root / key, layout.shard_bytes(shard), self._hashes.get(key)
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_size != size:
                    raise shard_damage(self.root, layout, shard, f"has {status.st_size} bytes instead of {size}")
                identity = (status.st_dev, status.st_ino, size, status.st_mtime_ns, expected)
                intact = expected is None or identity in _hashed or file_sha256(file) == expected
                content = map_file(file, size)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise shard_damage(self.root, layout, shard, "is missing") from error
        except OSError as error:
            raise cannot_read(path, error) from error
        if content[layout.stored_chunks(shard) * layout.chunk_bytes :] != layout.index(shard):
            raise shard_damage(self.root, layout, shard, "has a damaged index")
        if not intact:
            raise shard_damage(self.root, layout, shard, _difference(layout, shard, content))
        if expected is not None:
            _hashed.add(identity)
        return content


_hashed: set[tuple[int, int, int, int, str | None]] = set()  # files that this process need not hash again


def _difference(layout: ArrayLayout, shard: int, content: memoryview) -> str:
    """What is wrong with a file that has another hash than expected."""
    bad = damaged_chunks(layout, shard, content)
    if not bad:
        return "is intact, but another file than the one that was committed here (its sha256 differs)"
    return _checksum_problem(layout, layout.chunks * shard + bad[0], len(bad))


def _checksum_problem(layout: ArrayLayout, chunk: int, count: int) -> str:
    first = chunk * layout.chunk_rows
    last = min(first + layout.chunk_rows, layout.rows) - 1
    return f"rows {first} to {last} do not match their checksum ({count} damaged chunks were found)"


def shard_damage(root: Path, layout: ArrayLayout, shard: int, problem: str) -> DamagedShardError:
    """The error for a damaged shard file; it names the file, the rows and what to do."""
    rows = layout.rows_of(shard)
    return DamagedShardError(
        f"{root / layout.key(shard)} (rows {rows.start} to {rows.stop - 1}): {problem}. "
        f"`tokenreel repair {root}` rewrites damaged shards"
    )


def damaged_chunks(layout: ArrayLayout, shard: int, content: memoryview) -> list[int]:
    """The chunks of a shard that do not match their checksum."""
    size = layout.chunk_bytes
    chunks = range(layout.stored_chunks(shard))
    return [chunk for chunk in chunks if not _is_valid(content[chunk * size : (chunk + 1) * size])]


class ShardedArray:
    """Reads rows of one array of a cache. Has no thread, lock or file position, so it may be used after a fork.

    Reading a single row is optimized: plain integers, as for one row a numpy call costs more than reading the bytes.
    """

    def __init__(self, maps: ShardMaps, layout: ArrayLayout) -> None:
        self.layout = layout
        self._maps = maps
        self._first = maps.first_number(layout)
        self._chunks_per_shard = layout.chunks
        self._chunk_shape = layout.row_shape if layout.chunk_rows == 1 else (layout.chunk_rows, *layout.row_shape)
        self._dtype = layout.dtype.newbyteorder("<")
        inner = [math.prod(self._chunk_shape[axis + 1 :]) for axis in range(len(self._chunk_shape))]
        self._strides = (layout.chunk_bytes, *(count * layout.dtype.itemsize for count in inner))

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """`rows` [n], in any order -> [n, *row_shape], a copy. Raises CacheError, naming the file and the rows."""
        if not rows:
            return np.empty((0, *self.layout.row_shape), dtype=self.layout.dtype)
        if self.layout.chunk_rows == 1:
            return self._chunks(rows)
        chunks, within = np.divmod(rows, self.layout.chunk_rows)
        distinct, inverse = np.unique(chunks, return_inverse=True)
        return self._chunks(distinct.tolist())[inverse, within]

    def _chunks(self, chunks: Sequence[int]) -> np.ndarray:
        """Chunks [n], verified: [n, chunk_rows, *row_shape], without the second axis if chunks are single rows.

        A view of a copy, which has the checksums between the chunks.
        """
        block = self._gather(chunks)
        if google_crc32c.value(block) != _checksum_of_valid_chunks(len(chunks), self._strides[0]):
            raise self._damage(chunks, block)
        return np.ndarray((len(chunks), *self._chunk_shape), self._dtype, block, 0, self._strides)

    def _gather(self, chunks: Sequence[int]) -> np.ndarray:
        """uint8 [n * chunk_bytes], as stored."""
        if len(chunks) > MAX_CHUNKS:
            parts = range(0, len(chunks), MAX_CHUNKS)
            return np.concatenate([self._gather(chunks[start : start + MAX_CHUNKS]) for start in parts])
        count, size, maps, first = self._chunks_per_shard, self._strides[0], self._maps, self._first
        stored = [maps[first + chunk // count][(at := chunk % count * size) : at + size] for chunk in chunks]
        return np.frombuffer(bytearray().join(stored), dtype=np.uint8)

    def _damage(self, chunks: Sequence[int], block: np.ndarray) -> CacheError:
        stored = block.reshape(len(chunks), -1)
        bad = [chunk for chunk, data in zip(chunks, stored, strict=True) if not _is_valid(data)]
        problem = _checksum_problem(self.layout, bad[0], len(bad))
        return shard_damage(self._maps.root, self.layout, bad[0] // self._chunks_per_shard, problem)


def _is_valid(stored: memoryview | np.ndarray) -> bool:
    checksum = google_crc32c.value(stored[:-CHECKSUM_BYTES].tobytes())
    return bool(checksum == int.from_bytes(stored[-CHECKSUM_BYTES:].tobytes(), "little"))


@cache
def _checksum_of_valid_chunks(count: int, size: int) -> int:
    """The crc32c of `count` chunks of `size` bytes in a row, whatever data they hold, if each ends in its own crc32c.

    A CRC is affine over GF(2): after data and its own checksum the register does not depend on the data, nor does it
    after any number of such pairs. One pass over a batch therefore verifies all of its chunks; damage to a single chunk
    is detected as reliably as by its own checksum.
    """
    chunk = bytes(size - CHECKSUM_BYTES)
    chunk += google_crc32c.value(chunk).to_bytes(CHECKSUM_BYTES, "little")
    checksum = 0
    for _ in range(count):
        checksum = google_crc32c.extend(checksum, chunk)
    return int(checksum)
