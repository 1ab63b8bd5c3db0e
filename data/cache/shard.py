"""The bytes of one shard: encodes them in memory, and reads rows of the memory-mapped file with all checksums verified.

The file is the one that any Zarr v3 library writes for this layout. Reading a clip through such a library takes
hundreds of times as long as reading the bytes: scheduling, and the index parsed again in each call. Here the index is
compared once with the only one that the layout allows, and the checksums of a batch are verified in a single pass.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import google_crc32c
import numpy as np

from tokenreel.data.cache.layout import CHECKSUM_BYTES, ArrayLayout
from tokenreel.errors import CacheError

MAX_OPEN_SHARDS = 256  # mapped files per array; the oldest is dropped first, so that resident memory is bounded


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


class _Maps(dict[int, memoryview]):
    """Mapped files by shard, mapped on first access, oldest first."""

    def __init__(self, open_map: Callable[[int], memoryview]) -> None:
        self._open_map = open_map

    def __missing__(self, shard: int) -> memoryview:
        self[shard] = self._open_map(shard)
        return self[shard]

    def drop_oldest(self) -> None:
        for shard in list(self)[:-MAX_OPEN_SHARDS]:
            del self[shard]


class ShardedArray:
    """Reads rows of one array of a cache. Has no thread, lock or file position, so it may be used after a fork.

    Reading a single row is optimized: plain integers, as for one row a numpy call costs more than reading the bytes.
    """

    def __init__(self, root: Path, layout: ArrayLayout) -> None:
        self.layout = layout
        self._root = root
        self._maps = _Maps(self._map)
        self._chunks_per_shard = layout.chunks
        self._chunk_shape = layout.row_shape if layout.chunk_rows == 1 else (layout.chunk_rows, *layout.row_shape)
        self._dtype = layout.dtype.newbyteorder("<")
        self._strides = (layout.chunk_bytes, *np.empty(self._chunk_shape, dtype=layout.dtype).strides)

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
        count, size, maps = self._chunks_per_shard, self._strides[0], self._maps
        stored = [maps[chunk // count][(at := chunk % count * size) : at + size] for chunk in chunks]
        block = bytearray().join(stored)
        if len(maps) > MAX_OPEN_SHARDS:
            maps.drop_oldest()
        return np.frombuffer(block, dtype=np.uint8)

    def _damage(self, chunks: Sequence[int], block: np.ndarray) -> CacheError:
        stored = block.reshape(len(chunks), -1)
        bad = [chunk for chunk, data in zip(chunks, stored, strict=True) if not _is_valid(data)]
        first = bad[0] * self.layout.chunk_rows
        last = min(first + self.layout.chunk_rows, self.layout.rows) - 1
        problem = f"rows {first} to {last} do not match their checksum ({len(bad)} damaged chunks in this read)"
        return self._error(bad[0] // self._chunks_per_shard, problem)

    def _map(self, shard: int) -> memoryview:
        """The mapped file, its size and index checked."""
        layout, path = self.layout, self._root / self.layout.key(shard)
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                if size != layout.shard_bytes(shard):
                    raise self._error(shard, f"has {size} bytes instead of {layout.shard_bytes(shard)}")
                content = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        except OSError as error:
            raise self._error(shard, f"cannot be read ({error.strerror})") from error
        split = layout.stored_chunks(shard) * layout.chunk_bytes
        if content[split:] != layout.index(shard):
            raise self._error(shard, "has a damaged index")
        return content

    def _error(self, shard: int, problem: str) -> CacheError:
        rows = self.layout.rows_of(shard)
        return CacheError(
            f"{self._root / self.layout.key(shard)} (rows {rows.start} to {rows.stop - 1}): {problem}. "
            f"`tokenreel repair {self._root}` rewrites damaged shards"
        )

    def damaged_chunks(self, shard: int) -> list[int]:
        """The chunks that do not match their checksum. Raises CacheError if the file cannot be read at all."""
        content, size = self._map(shard), self._strides[0]
        chunks = range(self.layout.stored_chunks(shard))
        return [chunk for chunk in chunks if not _is_valid(content[chunk * size : (chunk + 1) * size])]


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
