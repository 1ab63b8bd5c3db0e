"""Writes a token cache: plan -> shards -> commits -> seal. Safe for any number of writers and after any crash.

A shard of rows, the same rows in every array, is encoded in memory by one writer, written durably, and then committed.
Two writers of the same shard write the same bytes, so nothing is locked.
"""

from __future__ import annotations

import contextlib
import errno
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.config import sha256_json
from tokenreel.data.cache.documents import ROOT, CacheDocuments, root_json
from tokenreel.data.cache.files import cannot_write, durable_put, readable_json, staged_folder, sweep_partials
from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.cache.manifest import (
    COMMITS,
    MANIFEST,
    Commit,
    InvalidRow,
    Manifest,
    StoredFile,
    build_manifest,
    commit_key,
    committed_shards,
)
from tokenreel.data.cache.shard import encode_shard
from tokenreel.errors import CacheError


def holds_cache(path: Path) -> bool:
    """Whether `path` is a cache; False for an empty or absent folder. Raises CacheError for anything else."""
    if (path / ROOT).is_file():
        return True
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise CacheError(f"--out {path} already exists and is not a token cache: give a new folder")
    return False


class CacheWriter:
    """Writes shards of a cache whose header and plan are on disk. Several may write at once, on several machines."""

    def __init__(self, path: Path, header: CacheHeader) -> None:
        self.path = path
        self.header = header
        self._header_sha256 = sha256_json(header.to_json())

    @classmethod
    def create(cls, path: Path, header: CacheHeader, plan: Mapping[str, Any], origin: Mapping[str, Any]) -> CacheWriter:
        """Creates the cache without shards, or opens the existing one if header and plan are the same.

        `plan`: a JSON document with `videos`, one mapping for each source of rows, that hashes to the header's
        plan_sha256. `origin`: locations of the data and the tokenizer, not part of the identity. Raises CacheError if
        `path` contains anything else or cannot be written.
        """
        documents = CacheDocuments(header, plan, origin)
        if not holds_cache(path):
            _create_skeleton(path, documents)
        found = CacheDocuments.load(path)
        found.require_same(documents, path)
        if found.cache_id is not None:  # one from the Hub has no commits, and would be written again
            restore_commits(path, found.header)
        return cls(path, found.header)

    def pending(self) -> list[int]:
        """The shards without a commit or with missing files. Raises CacheError for a commit of another cache."""
        committed = self.committed()
        return [shard for shard in range(self.header.shards) if shard not in committed]

    def committed(self) -> frozenset[int]:
        """The shards with a commit and all files: no more than there are files, whatever the header claims."""
        return frozenset(filter(self._is_complete, committed_shards(self.path, self.header)))

    def _is_complete(self, shard: int) -> bool:
        commit = Commit.load(self.path, shard, self.header)
        if commit.header_sha256 != self._header_sha256:
            raise CacheError(f"{self.path / commit_key(shard)} belongs to another cache; remove it")
        return commit.complete(self.path)

    def invalid_rows(self) -> list[InvalidRow]:
        """The invalid rows of all committed shards, in order."""
        commits = (Commit.load(self.path, shard, self.header) for shard in committed_shards(self.path, self.header))
        return [bad for commit in commits for bad in commit.invalid]

    def put(self, shard: int, arrays: Mapping[str, np.ndarray], invalid: Sequence[InvalidRow] = ()) -> Commit:
        """Writes and commits a shard of every array (`arrays` by stream or column name, [rows of the shard, ...])."""
        expected = {**self.header.streams, **self.header.columns}
        if set(arrays) != set(expected):
            raise CacheError(f"a shard must have the arrays {sorted(expected)}, got {sorted(arrays)}")
        files = []
        for name, layout in expected.items():
            data = encode_shard(layout, shard, arrays[name])
            _put(self.path / layout.key(shard), data)
            files.append(StoredFile.of(layout.key(shard), data))
        commit = Commit(self._header_sha256, shard, tuple(files), tuple(invalid))
        _put(self.path / commit_key(shard), readable_json(commit.to_json()))
        return commit

    def seal(self, expected: str | None = None, approve: Callable[[], None] | None = None) -> str | None:
        """Writes the manifest and returns the cache_id, or None while shards are missing. May be called again.

        Every file is hashed again; a shard that differs from what was committed loses its commit, so that it is written
        again. `approve` is called once all shards are found intact; if it raises, nothing is written. Raises CacheError
        if the identity is not the `expected` one.
        """
        if len(self.committed()) < self.header.shards:
            return None
        commits = [Commit.load(self.path, shard, self.header) for shard in range(self.header.shards)]
        damaged = [commit.shard for commit in commits if not commit.matches(self.path)]
        for shard in damaged:
            (self.path / commit_key(shard)).unlink()
        if damaged:
            return None
        manifest = build_manifest(self.header, commits)
        if expected not in (None, manifest["cache_id"]):
            raise CacheError(
                f"{self.path} was sealed as {expected}, but its shards now give {manifest['cache_id']}: rewritten "
                "shards differ, as they may on another device, precision or version (see provenance in zarr.json)"
            )
        if approve is not None:
            approve()
        durable_put(self.path / MANIFEST, readable_json(manifest))
        durable_put(self.path / "zarr.json", readable_json(root_json(self.header, manifest["cache_id"])))
        sweep_partials(self.path)
        return str(manifest["cache_id"])


def restore_commits(root: Path, header: CacheHeader) -> list[str]:
    """Writes the commits that a sealed cache lacks, as one from the Hub does, by its manifest; returns their keys.

    Raises CacheError if the manifest is damaged.
    """
    missing = sorted(set(range(header.shards)) - set(committed_shards(root, header)))
    if not missing:
        return []
    manifest, arrays = Manifest.load(root), len(header.arrays)
    if manifest.header != header:
        raise CacheError(f"{root / MANIFEST} belongs to another cache than {root / ROOT}: `tokenreel repair {root}`")
    invalid = defaultdict[int, list[InvalidRow]](list)
    for bad in manifest.invalid:
        invalid[bad.row // header.shard_rows].append(bad)
    for shard in missing:
        files = manifest.files[shard * arrays : (shard + 1) * arrays]
        commit = Commit(sha256_json(header.to_json()), shard, files, tuple(invalid[shard]))
        _put(root / commit_key(shard), readable_json(commit.to_json()))
    return [commit_key(shard) for shard in missing]


def _put(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    durable_put(path, data)


def _create_skeleton(path: Path, documents: CacheDocuments) -> None:
    """Writes all documents under a temporary name, then renames: a cache folder never lacks a document."""
    try:
        with staged_folder(path) as staging:
            (staging / COMMITS).mkdir()
            for key, data in documents.files().items():
                (staging / key).parent.mkdir(parents=True, exist_ok=True)
                durable_put(staging / key, data)
            with contextlib.suppress(FileExistsError):  # another writer was first; the caller compares its documents
                _rename_folder(staging, path)
    except OSError as error:
        raise cannot_write(path, error) from error


def _rename_folder(source: Path, target: Path) -> None:
    """Renames `source`, replacing an empty folder. Raises FileExistsError if the target is not empty."""
    try:
        source.rename(target)
    except OSError as error:
        raise FileExistsError if error.errno == errno.ENOTEMPTY else error from error
