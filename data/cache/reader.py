"""TokenCache reads random rows of a token cache and verifies every checksum.

`zarr.open` reads the same files; for the small random rows of training, this reader is hundreds of times faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from tokenreel.data.cache.documents import CacheDocuments
from tokenreel.data.cache.files import file_size
from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.cache.manifest import MANIFEST, Commit, Manifest, StoredFile, committed_shards
from tokenreel.data.cache.notebook import cache_table
from tokenreel.data.cache.shard import ShardedArray, ShardMaps, shard_damage
from tokenreel.data.spec import TokenSpec
from tokenreel.errors import CacheError, nearest_name


class TokenCache:
    """A token cache, token file or set of imported tokens, opened for reading.

    A row is a clip. In a cache of whole videos (`kind` "videos") a row is the first code step of a window within one
    video, so windows overlap; readers get clips of one length in either case.
    """

    def __init__(
        self, path: Path, documents: CacheDocuments, shards: frozenset[int], files: Iterable[StoredFile]
    ) -> None:
        self.path = path
        self.header = documents.header
        self.plan = documents.plan  # JSON document that describes the rows; `videos` has an entry for each source
        self.origin = documents.origin
        self.cache_id = documents.cache_id  # None if the cache is not sealed
        self.shards = shards  # that can be read
        self._maps = ShardMaps(path, self.header.arrays, {file.key: file.sha256 for file in files})
        self._streams = {name: ShardedArray(self._maps, layout) for name, layout in self.header.streams.items()}
        self.row_steps = self.spec.frames // self.header.row_frames  # rows of a clip: 1, except for whole videos
        self._codebook_sizes = {stream.name: stream.codebook_size for stream in self.header.spec.streams}

    @classmethod
    def open(cls, path: str | Path, allow_partial: bool = False) -> Self:
        """Checks all metadata and the size of every file; a file's hash and tokens are checked when they are read.

        `allow_partial` opens a cache that is not sealed, with the rows committed so far. Raises CacheError if the
        folder is not a token cache, is damaged, is not sealed, or contains anything that is not in this format.
        """
        root = Path(path)
        documents = CacheDocuments.load(root)
        if documents.cache_id is not None:
            manifest = Manifest.load(root)
            if (manifest.header, manifest.cache_id) != (documents.header, documents.cache_id):
                raise CacheError(f"{root / MANIFEST} belongs to another cache than {root / 'zarr.json'}")
            _require_files(root, documents.header)
            return cls(root, documents, frozenset(range(documents.header.shards)), manifest.files)
        header = documents.header
        commits = [Commit.load(root, shard, header) for shard in committed_shards(root, header)]
        complete = [commit for commit in commits if commit.complete(root)]
        if not allow_partial:
            raise CacheError(f"{root} {_why_not_sealed(len(complete), header.shards)}")
        files = [file for commit in complete for file in commit.files]
        return cls(root, documents, frozenset(commit.shard for commit in complete), files)

    def __repr__(self) -> str:
        state = "" if self.cache_id is not None else f"; not sealed, {len(self.shards)} of {self.header.shards} shards"
        return (
            f"<TokenCache {self.path}: {self.row_count:,} rows of {self.kind}; {self.spec.summary}; "
            f"codes of {self.code_fingerprint[:8]}{state}>"
        )

    def _repr_html_(self) -> str:
        return cache_table(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # A data loader's worker maps the files itself.
        return TokenCache.open, (self.path, self.cache_id is None)

    @property
    def spec(self) -> TokenSpec:
        return self.header.spec

    @property
    def kind(self) -> str:
        return self.header.kind

    @property
    def code_fingerprint(self) -> str:
        """The fingerprint of the tokenizer that made the tokens."""
        return self.header.code_fingerprint

    @property
    def provenance(self) -> dict[str, Any]:
        return self.header.provenance

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.plan.get("classes", ()))

    @property
    def row_count(self) -> int:
        """Number of rows of the plan, including invalid ones and those not yet written."""
        return self.header.rows

    def rows(self, split: str | None = None, stride: int | None = None) -> np.ndarray:
        """int64 [n], ascending: the readable rows of a split, or of all.

        `stride` matters only in caches of whole videos: the number of rows from the start of a window to the next, 1
        for all windows (training), None for windows without overlap. Raises CacheError for an unknown split.
        """
        usable = self.column("valid") == 1
        if split is not None:
            usable &= self._in_split(split)
        if self.kind != "videos":
            return self._numbers(np.flatnonzero(usable))
        stride = stride or self.row_steps
        runs = _runs(usable, self.column("source"), self._written)
        starts = [_window_starts(run, self.row_steps, stride) for run in runs]
        return self._numbers(np.concatenate([np.empty(0, np.int64), *starts]))

    def valid_rows(self) -> np.ndarray:
        """int64 [n], ascending: the rows that are written and whose clip was decoded; in caches of whole videos also
        those at which no window begins.
        """
        return self._numbers(np.flatnonzero(self.column("valid") == 1))

    def _in_split(self, split: str) -> np.ndarray:
        splits = np.array([video.get("split", "") for video in self.plan["videos"]])
        if split not in splits:
            raise CacheError(f"{self.path} has no split {split!r}; {nearest_name(split, set(splits.tolist()) - {''})}")
        return (splits == split)[self.column("source")]

    def read(
        self, rows: np.ndarray | Sequence[int], streams: Iterable[str] | None = None, steps: int | None = None
    ) -> dict[str, np.ndarray]:
        """`rows` [n], in any order -> tokens by stream, unsigned [n, t, h, w, q].

        `streams`: all if None. `steps`: in caches of whole videos, the rows of a window, `row_steps` if None. Raises
        CacheError, naming the file and the rows, for damaged or invalid tokens.
        """
        count = self.row_steps if steps is None else steps
        if count > 1:
            rows = (np.asarray(rows)[:, None] + np.arange(count)).reshape(-1)
        indices = rows.tolist() if isinstance(rows, np.ndarray) else list(rows)
        self._require_rows(indices)
        return {
            name: self._read_stream(name, indices, count) for name in (self._streams if streams is None else streams)
        }

    def _read_stream(self, name: str, rows: list[int], steps: int) -> np.ndarray:
        if name not in self._streams:
            raise CacheError(f"{self.path} has no stream {name!r}; {nearest_name(name, self._streams)}")
        tokens = self._streams[name].read(rows)
        if rows and tokens.max() >= self._codebook_sizes[name]:
            self._refuse_tokens(name, np.array(rows), tokens)
        return tokens if steps == 1 else tokens.reshape(-1, steps * tokens.shape[1], *tokens.shape[2:])

    def _refuse_tokens(self, name: str, rows: np.ndarray, tokens: np.ndarray) -> None:
        bad = rows[(tokens >= self._codebook_sizes[name]).reshape(len(rows), -1).any(axis=1)]
        invalid = bad[self.column("valid", bad) != 1]
        if len(invalid):
            raise CacheError(f"row {invalid[0]} of {self.path} is invalid, its clip did not decode; use rows()")
        key = self.header.streams[name].key(int(bad[0]) // self.header.shard_rows)
        size = self._codebook_sizes[name]
        raise CacheError(f"{self.path / key}: row {bad[0]} has tokens outside the codebook of {size}")

    def _require_rows(self, rows: list[int]) -> None:
        if rows and not (min(rows) >= 0 and max(rows) < self.header.rows):
            raise CacheError(
                f"rows (={min(rows)} to {max(rows)}) must be from 0 to {self.header.rows - 1}, the last of {self.path}"
            )
        if len(self.shards) < self.header.shards:
            absent = [row for row in rows if row // self.header.shard_rows not in self.shards]
            if absent:
                raise CacheError(f"row {absent[0]} of {self.path} is not written yet")

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """int32 [n]: index into `classes`; -1 if the source has no label."""
        return self.column("label", rows)

    def source_ids(self, rows: np.ndarray) -> list[str]:
        """The id of the video, or sample, of each row."""
        return [self.plan["videos"][source]["id"] for source in self.column("source", rows).tolist()]

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """One number per row: valid, label, source (index into plan["videos"]) or first_frame.

        Of `rows` [n]; None: of all rows that are written, in order. Raises CacheError if the array is damaged, or a row
        does not exist or is not written.
        """
        values = self._columns[name]
        if rows is None:
            return values
        self._require_rows(rows.tolist())
        return values[rows if self._written is None else np.searchsorted(self._written, rows)]

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        columns = {}
        for name, layout in self.header.columns.items():
            array = ShardedArray(self._maps, layout)
            parts = [array.read(layout.rows_of(shard)) for shard in sorted(self.shards)]
            columns[name] = np.concatenate([np.empty(0, layout.dtype), *parts])
        source = columns["source"]
        if len(source) and (source.min() < 0 or source.max() >= len(self.plan["videos"])):
            raise CacheError(f"{self.path}/source contains videos that are not in the plan; the cache is damaged")
        return columns

    @cached_property
    def _written(self) -> np.ndarray | None:
        """int64 [n]: the rows that are written; None: all. A cache that is not sealed may claim any number of rows."""
        if len(self.shards) == self.header.shards:
            return None
        parts = map(self.header.columns["valid"].rows_of, sorted(self.shards))
        return np.concatenate([np.empty(0, np.int64), *(np.arange(part.start, part.stop) for part in parts)])

    def _numbers(self, positions: np.ndarray) -> np.ndarray:
        """The numbers of rows, from their positions among those that are written."""
        return positions if self._written is None else self._written[positions]


def _why_not_sealed(committed: int, shards: int) -> str:
    """Why an unsealed cache cannot be read, and what to do."""
    if committed < shards:
        return (
            f"is not finished: {committed} of {shards} shards are committed. "
            "Run the same tokenize-dataset command again; it continues where it stopped"
        )
    return (
        f"holds all of its {shards} shards but is not sealed: the last call was stopped, or refused to seal it. The "
        "same tokenize-dataset command seals it or says why not; --allow-collapsed seals it if a level has collapsed"
    )


def _require_files(root: Path, header: CacheHeader) -> None:
    for array in header.arrays:
        for shard in range(array.shards):
            size = file_size(root / array.key(shard))
            if size != array.shard_bytes(shard):
                state = "is missing" if size is None else f"has {size} bytes instead of {array.shard_bytes(shard)}"
                raise shard_damage(root, array, shard, state)


def _runs(usable: np.ndarray, source: np.ndarray, numbers: np.ndarray | None) -> list[tuple[int, int]]:
    """[start, stop) of each maximal run of usable rows of one video with consecutive numbers (None: all are)."""
    tag = np.where(usable, source, -1)
    edge = np.diff(tag, prepend=-2, append=-2) != 0
    if numbers is not None:
        edge[1:-1] |= np.diff(numbers) != 1
    edges = np.flatnonzero(edge)
    return [(a, b) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True) if usable[a]]


def _window_starts(run: tuple[int, int], length: int, stride: int) -> np.ndarray:
    return np.arange(run[0], run[1] - length + 1, stride, dtype=np.int64)
