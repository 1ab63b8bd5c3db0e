"""The layout of a token cache: the arrays, their shards and chunks, and the Zarr v3 metadata that describes them.

Everything follows from the header, so metadata is generated and compared, never interpreted: files with any other
metadata are refused before data is read. There is no compression, only a checksum for each chunk: the size and the
index of every shard are known before it is read, nothing can unpack to more than the file's size, and a chunk can be
used in place. No file is read or written here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import google_crc32c
import numpy as np

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.errors import ConfigError

FORMAT = "tokenreel-cache"
VERSION = 1
CHECKSUM_BYTES = 4  # crc32c, little-endian, after every chunk and after the index
INDEX_ENTRY_BYTES = 16
CHUNK_BYTES = 2 << 10  # rows smaller than this share a chunk, larger ones have their own: fastest for random rows
CHUNKS_IN_SHARD = 4096  # an index of at most 64 KiB, one small request if the cache is remote
MAX_ROWS = np.iinfo(np.int32).max
SHARD_BYTES = 32 << 20
SHARD_PIXELS = 1 << 28  # 65,536 frames of 64 x 64: about two minutes of one writer, which a crash loses
TARGET_SHARDS = 16  # of a small data set, so that several workers can share it
MIN_SHARD_FRAMES = 256  # so that a shard fills a few batches

STREAMS = "streams"  # the group of the arrays of tokens

COLUMNS: dict[str, type[np.integer[Any]]] = {  # arrays of one number per row, in addition to the streams
    "valid": np.uint8, "label": np.int32, "source": np.int32, "first_frame": np.int64
}  # fmt: skip

Kind = Literal["clips", "videos", "samples", "codes"]


@dataclass(frozen=True)
class ArrayLayout:
    """One sharded array: `dtype` [rows, *row_shape], `shard_rows` rows per file, `chunk_rows` rows per checksum."""

    name: str  # path below the cache's root
    dtype: np.dtype[Any]
    rows: int
    row_shape: tuple[int, ...]
    shard_rows: int
    chunk_rows: int  # divides shard_rows

    @property
    def shards(self) -> int:
        return math.ceil(self.rows / self.shard_rows)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one stored chunk, including its checksum."""
        return self.chunk_rows * self.row_bytes + CHECKSUM_BYTES

    @property
    def chunks(self) -> int:
        """Chunks of a full shard."""
        return self.shard_rows // self.chunk_rows

    def stored_chunks(self, shard: int) -> int:
        """Number of chunks in the shard: those with at least one row, fewer than `chunks` in the last shard."""
        return math.ceil(len(self.rows_of(shard)) / self.chunk_rows)

    def shard_bytes(self, shard: int) -> int:
        return self.stored_chunks(shard) * self.chunk_bytes + self.chunks * INDEX_ENTRY_BYTES + CHECKSUM_BYTES

    def index(self, shard: int) -> bytes:
        """The shard's end: (offset, size) of each chunk as little-endian u64, all ones if absent; then its checksum."""
        stored = self.stored_chunks(shard)
        table = np.full((self.chunks, 2), np.iinfo(np.uint64).max, dtype="<u8")
        table[:stored, 0] = np.arange(stored) * self.chunk_bytes
        table[:stored, 1] = self.chunk_bytes
        index = table.tobytes()
        return index + google_crc32c.value(index).to_bytes(CHECKSUM_BYTES, "little")

    @property
    def fill_value(self) -> int:
        """The value of missing data, which is never a token."""
        return int(np.iinfo(self.dtype).max)

    def key(self, shard: int) -> str:
        """The path of the shard's file, relative to the cache's root."""
        return "/".join([self.name, "c", str(shard), *["0"] * len(self.row_shape)])

    @property
    def dimension_names(self) -> list[str]:
        """The rows are shared by all arrays of a cache; each stream has a grid of its own."""
        name = self.name.rpartition("/")[-1]
        return ["row", *(f"{name}_{axis}" for axis in "thwq"[: len(self.row_shape)])]

    def rows_of(self, shard: int) -> range:
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))

    def zarr_json(self) -> dict[str, Any]:
        """The array's Zarr v3 metadata."""
        single = [{"name": "bytes"}] if self.dtype.itemsize == 1 else [_LITTLE_ENDIAN]
        sharding = {
            "chunk_shape": [self.chunk_rows, *self.row_shape],
            "codecs": [*single, {"name": "crc32c"}],
            "index_codecs": [_LITTLE_ENDIAN, {"name": "crc32c"}],
            "index_location": "end",
        }
        grid = {"chunk_shape": [self.shard_rows, *self.row_shape]}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.rows, *self.row_shape],
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": grid},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.fill_value,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": self.dimension_names,
            "attributes": {},
            "storage_transformers": [],
        }


_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}


@dataclass(frozen=True)
class CacheHeader:
    """The description of a cache. All of it is hashed into the cache's identity, so it has no host, time or path."""

    kind: Kind  # clips of videos; videos: rows are steps of whole videos; samples of a prior; codes: imported tokens
    spec: TokenSpec
    row_frames: int  # frames of one row: those of the clip, or of one code step in a cache of whole videos
    rows: int
    shard_rows: int
    code_fingerprint: str  # of the tokenizer; see VideoTokenizer.code_fingerprint
    plan_sha256: str
    provenance: dict[str, Any] = field(default_factory=dict)  # plain data: tokenizer, precision, device, versions

    def __post_init__(self) -> None:
        if min(self.rows, self.shard_rows, self.row_frames) < 1 or max(self.rows, self.shard_rows) > MAX_ROWS:
            found = f"{self.rows}, {self.shard_rows} and {self.row_frames}"
            raise ConfigError(f"rows, shard_rows and row_frames (={found}) must be from 1 to {MAX_ROWS}")
        for stream in self.spec.streams:
            if not stream.name.isidentifier() or not stream.name.isascii():
                raise ConfigError(f"stream {stream.name!r}: a stream's name must consist of letters, digits and _")
            if stream.name in COLUMNS:
                raise ConfigError(f"stream {stream.name!r}: a cache has a column of that name; rename the stream")
        for array in self.arrays:  # an index is built in memory before anything is read
            if array.shard_rows % array.chunk_rows or array.chunks > CHUNKS_IN_SHARD:
                raise ConfigError(
                    f"shard_rows (={self.shard_rows}) gives {array.chunks} chunks of {array.name} per shard; use a "
                    f"multiple of {array.chunk_rows}, with at most {CHUNKS_IN_SHARD} chunks"
                )

    def row_shape(self, stream: StreamSpec) -> tuple[int, int, int, int]:
        """[t, h, w, q] of one row; t differs from the stream's grid only in a cache of whole videos."""
        if self.row_frames == self.spec.frames:
            return stream.shape
        return (self.spec.steps_of_frames(self.row_frames, stream), *stream.shape[1:])

    @cached_property
    def streams(self) -> dict[str, ArrayLayout]:
        """The arrays of tokens, by stream."""
        return {stream.name: self._stream(stream) for stream in self.spec.streams}

    @cached_property
    def columns(self) -> dict[str, ArrayLayout]:
        """The arrays of one number per row, each shard one chunk."""
        return {
            name: ArrayLayout(name, np.dtype(dtype), self.rows, (), self.shard_rows, self.shard_rows)
            for name, dtype in COLUMNS.items()
        }

    @property
    def arrays(self) -> tuple[ArrayLayout, ...]:
        return (*self.streams.values(), *self.columns.values())

    @property
    def shards(self) -> int:
        return math.ceil(self.rows / self.shard_rows)

    def bytes_of(self, shard: int) -> int:
        """Bytes of all files of a shard."""
        return sum(array.shard_bytes(shard) for array in self.arrays)

    def _stream(self, stream: StreamSpec) -> ArrayLayout:
        shape = self.row_shape(stream)
        chunk_rows = min(chunk_rows_of(math.prod(shape) * stream.dtype.itemsize), self.shard_rows)
        return ArrayLayout(f"{STREAMS}/{stream.name}", stream.dtype, self.rows, shape, self.shard_rows, chunk_rows)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **to_mapping(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CacheHeader:
        """Raises ConfigError for another format or version, unknown or missing keys, values out of range."""
        data = dict(document)
        found = (data.pop("format", None), data.pop("version", None))
        if found != (FORMAT, VERSION):
            raise ConfigError(f"format and version (={found}) are not {(FORMAT, VERSION)}: this release cannot read it")
        return from_mapping(cls, data, "header")


def chunk_rows_of(row_bytes: int) -> int:
    """Rows of a chunk, which has one checksum: a power of two, so that it divides every shard."""
    return 1 << max(0, (CHUNK_BYTES // row_bytes).bit_length() - 1)


def choose_shard_rows(spec: TokenSpec, row_frames: int, rows: int) -> int:
    """Rows of a shard, the unit of work: a power of two that depends on the plan and the spec alone."""
    row_bytes = [s.positions * s.dtype.itemsize * row_frames // spec.frames for s in spec.streams]
    pixels = row_frames * spec.framing.height * spec.framing.width
    limits = [CHUNKS_IN_SHARD * chunk_rows_of(max(1, size)) for size in row_bytes]
    target = max(math.ceil(rows / TARGET_SHARDS), MIN_SHARD_FRAMES // row_frames)
    limits += [SHARD_BYTES // max(1, max(row_bytes)), SHARD_PIXELS // pixels, target, rows]
    return 1 << max(0, min(limits).bit_length() - 1)
