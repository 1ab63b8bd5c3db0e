"""TokenCache: random rows out of a token cache, every checksum verified. Knows the codes and nothing of pixels.

`zarr.open` reads the same files; this reader is for training, which wants small random rows, hundreds of times faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from tokenreel.data.cache.documents import CacheDocuments
from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.cache.manifest import MANIFEST, Commit, Manifest, committed_shards
from tokenreel.data.cache.shard import ShardedArray
from tokenreel.data.spec import TokenSpec
from tokenreel.errors import CacheError, nearest_name


class TokenCache:
    """A cache, token file or imported set of codes, opened for reading.

    A row is a clip. Where videos are kept whole (`kind` "videos") a row is the first code step of a window that lies in
    one video, so windows overlap, and every reader sees clips of one length all the same.
    """

    def __init__(self, path: Path, documents: CacheDocuments, shards: frozenset[int]) -> None:
        self.path = path
        self.header = documents.header
        self.plan = documents.plan  # JSON document: what each row is, `videos` one for each source
        self.origin = documents.origin
        self.cache_id = documents.cache_id  # None where the cache is not sealed
        self.shards = shards  # those that may be read
        self._streams = {name: ShardedArray(path, layout) for name, layout in self.header.streams.items()}
        self.row_steps = self.spec.frames // self.header.row_frames  # rows of a clip: 1, unless videos are kept whole
        self._codes = {stream.name: stream.codebook_size for stream in self.header.spec.streams}

    @classmethod
    def open(cls, path: str | Path, allow_partial: bool = False) -> Self:
        """Reads and checks all metadata, and that every file is there in full size; codes are checked as they are read.

        `allow_partial` opens a cache that is not sealed, with the rows committed by now. Raises CacheError where the
        folder is not a token cache, is damaged, is not sealed, or contains anything that this format does not have.
        """
        root = Path(path)
        documents = CacheDocuments.load(root)
        if documents.cache_id is not None:
            manifest = Manifest.load(root)
            if (manifest.header, manifest.cache_id) != (documents.header, documents.cache_id):
                raise CacheError(f"{root / MANIFEST} is of another cache than {root / 'zarr.json'}")
            _require_files(root, documents.header)
            return cls(root, documents, frozenset(range(documents.header.shards)))
        committed = frozenset(s for s in committed_shards(root) if Commit.load(root, s).complete(root))
        if not allow_partial:
            raise CacheError(
                f"{root} is not finished: {len(committed)} of {documents.header.shards} shards are committed. "
                "Run the same tokenize-dataset command again; it continues where it stopped"
            )
        return cls(root, documents, committed)

    def __repr__(self) -> str:
        state = "" if self.cache_id is not None else f"; not sealed, {len(self.shards)} of {self.header.shards} shards"
        return (
            f"<TokenCache {self.path}: {self.row_count:,} rows of {self.kind}; {self.spec.summary}; "
            f"codes of {self.code_fingerprint[:8]}{state}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenCache.open, (self.path, self.cache_id is None)  # so that a data loader's worker maps files itself

    @property
    def spec(self) -> TokenSpec:
        return self.header.spec

    @property
    def kind(self) -> str:
        return self.header.kind

    @property
    def code_fingerprint(self) -> str:
        """Of the tokenizer whose codes these are."""
        return self.header.code_fingerprint

    @property
    def provenance(self) -> dict[str, Any]:
        return self.header.provenance

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.plan.get("classes", ()))

    @property
    def row_count(self) -> int:
        """Rows of the plan, those included that are invalid or not there yet."""
        return self.header.rows

    def rows(self, split: str | None = None, stride: int | None = None) -> np.ndarray:
        """int64 [n], ascending: the rows of a split that can be read, or all of them.

        `stride` matters only where videos are kept whole: the rows between the starts of two windows, 1 for every
        possible one (training), None for windows without overlap. Raises CacheError for a split that is not there.
        """
        usable = self.column("valid") == 1
        if split is not None:
            usable &= self._in_split(split)
        if self.kind != "videos":
            return np.flatnonzero(usable)
        stride = stride or self.row_steps
        starts = [_window_starts(run, self.row_steps, stride) for run in _runs(usable, self.column("source"))]
        return np.concatenate([np.empty(0, np.int64), *starts])

    def _in_split(self, split: str) -> np.ndarray:
        splits = np.array([video.get("split", "") for video in self.plan["videos"]])
        if split not in splits:
            raise CacheError(f"{self.path} has no split {split!r}; {nearest_name(split, set(splits.tolist()) - {''})}")
        return (splits == split)[self.column("source")]

    def read(
        self, rows: np.ndarray | Sequence[int], streams: Iterable[str] | None = None, steps: int | None = None
    ) -> dict[str, np.ndarray]:
        """`rows` [n], in any order -> by stream, unsigned [n, t, h, w, q].

        `streams`: all if None. `steps`: where videos are kept whole, the rows that make a window, `row_steps` if None.
        Raises CacheError naming the file and the rows where anything is damaged or no code.
        """
        count = self.row_steps if steps is None else steps
        if count > 1:
            rows = (np.asarray(rows)[:, None] + np.arange(count)).reshape(-1)
        wanted = rows.tolist() if isinstance(rows, np.ndarray) else list(rows)
        self._require_rows(wanted)
        return {
            name: self._read_stream(name, wanted, count) for name in (self._streams if streams is None else streams)
        }

    def _read_stream(self, name: str, rows: list[int], steps: int) -> np.ndarray:
        if name not in self._streams:
            raise CacheError(f"{self.path} has no stream {name!r}; {nearest_name(name, self._streams)}")
        codes = self._streams[name].read(rows)
        if rows and codes.max() >= self._codes[name]:
            self._refuse_codes(name, np.array(rows), codes)
        return codes if steps == 1 else codes.reshape(-1, steps * codes.shape[1], *codes.shape[2:])

    def _refuse_codes(self, name: str, rows: np.ndarray, codes: np.ndarray) -> None:
        bad = rows[(codes >= self._codes[name]).reshape(len(rows), -1).any(axis=1)]
        invalid = bad[self.column("valid")[bad] != 1]
        if len(invalid):
            raise CacheError(f"row {invalid[0]} of {self.path} did not decode and holds no codes; use rows()")
        key = self.header.streams[name].key(int(bad[0]) // self.header.shard_rows)
        raise CacheError(f"{self.path / key}: row {bad[0]} holds codes beyond the codebook (={self._codes[name]})")

    def _require_rows(self, rows: list[int]) -> None:
        if rows and not (min(rows) >= 0 and max(rows) < self.header.rows):
            raise CacheError(f"rows {min(rows)} to {max(rows)} are asked for; {self.path} has {self.header.rows}")
        if len(self.shards) < self.header.shards:
            absent = [row for row in rows if row // self.header.shard_rows not in self.shards]
            if absent:
                raise CacheError(f"row {absent[0]} of {self.path} is not written yet")

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """int32 [n]: index into `classes`; -1 where the source gave no label."""
        return self.column("label")[rows]

    def source_ids(self, rows: np.ndarray) -> list[str]:
        """The video, or sample, that each row is of."""
        return [self.plan["videos"][source]["id"] for source in self.column("source")[rows].tolist()]

    def column(self, name: str) -> np.ndarray:
        """A whole array of one number a row: valid, label, source (index into plan["videos"]), first_frame.

        Rows that are not written yet have valid 0. Raises CacheError where the array is damaged.
        """
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        columns = {}
        present = np.isin(np.arange(self.header.rows) // self.header.shard_rows, list(self.shards))
        for name, layout in self.header.columns.items():
            values = np.zeros(self.header.rows, dtype=layout.dtype)
            values[present] = ShardedArray(self.path, layout).read(np.flatnonzero(present).tolist())
            columns[name] = values
        source = columns["source"]
        if source.min() < 0 or source.max() >= len(self.plan["videos"]):
            raise CacheError(f"{self.path}/source names videos that the plan does not have; the cache is damaged")
        return columns


def _require_files(root: Path, header: CacheHeader) -> None:
    for array in header.arrays:
        for shard in range(array.shards):
            path = root / array.key(shard)
            size = path.stat().st_size if path.is_file() else None
            if size != array.shard_bytes(shard):
                rows = array.rows_of(shard)
                state = "is missing" if size is None else f"has {size} bytes instead of {array.shard_bytes(shard)}"
                raise CacheError(
                    f"{path} (rows {rows.start} to {rows.stop - 1}) {state}. "
                    f"`tokenreel repair {root}` makes damaged shards anew"
                )


def _runs(usable: np.ndarray, source: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each longest run of usable rows of one video."""
    tag = np.where(usable, source, -1)
    edges = np.flatnonzero(np.diff(tag, prepend=-2, append=-2))
    return [(a, b) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True) if usable[a]]


def _window_starts(run: tuple[int, int], length: int, hop: int) -> np.ndarray:
    return np.arange(run[0], run[1] - length + 1, hop, dtype=np.int64)
