"""Commits and the manifest: the files of each shard, and the identity of the cache.

A commit is one shard's record, written after all of the shard's files. The manifest consists of the header and
the commits once all exist; its hash, `cache_id`, covers every byte of every array. What is hashed contains no
host, time or path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenreel.config import from_mapping, sha256_json, to_mapping
from tokenreel.data.cache.files import read_json
from tokenreel.data.cache.layout import CacheHeader
from tokenreel.errors import CacheError, ConfigError

MANIFEST = "manifest.json"
COMMITS = "commits"


@dataclass(frozen=True)
class StoredFile:
    """One shard file of one array."""

    key: str  # path relative to the cache's root
    nbytes: int
    sha256: str

    @classmethod
    def of(cls, key: str, data: bytes) -> StoredFile:
        return cls(key, len(data), hashlib.sha256(data).hexdigest())

    def present(self, root: Path) -> bool:
        """Whether the file exists with its full size; `matches` and every read check its content."""
        path = root / self.key
        return path.is_file() and path.stat().st_size == self.nbytes

    def matches(self, root: Path) -> bool:
        """Whether the file contains exactly the bytes that were committed."""
        if not self.present(root):
            return False
        with (root / self.key).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


@dataclass(frozen=True)
class InvalidRow:
    """A row whose clip could not be decoded; its tokens are fill_value."""

    row: int
    reason: str  # one of DecodeFailure's reasons
    detail: str = ""  # for people; may contain a path, so it is not part of the cache's identity


@dataclass(frozen=True)
class Commit:
    """The record of one shard, by the writer that wrote it."""

    header_sha256: str
    shard: int
    files: tuple[StoredFile, ...]
    invalid: tuple[InvalidRow, ...] = ()
    writer: dict[str, Any] = field(default_factory=dict)  # host, process, seconds: for people

    def to_json(self) -> dict[str, Any]:
        return to_mapping(self)

    @classmethod
    def load(cls, root: Path, shard: int) -> Commit:
        """Reads a commit. Raises CacheError, naming the file, if it is missing or damaged."""
        path = root / commit_key(shard)
        try:
            return from_mapping(cls, read_json(path), "commit")
        except ConfigError as error:
            raise CacheError(f"{path} is damaged: {error}") from error

    def complete(self, root: Path) -> bool:
        return all(file.present(root) for file in self.files)

    def matches(self, root: Path) -> bool:
        return all(file.matches(root) for file in self.files)


def commit_key(shard: int) -> str:
    return f"{COMMITS}/{shard:08d}.json"


def committed_shards(root: Path) -> list[int]:
    """The shards that have a commit, ascending."""
    return sorted(int(path.stem) for path in (root / COMMITS).glob("[0-9]*.json"))


def build_manifest(header: CacheHeader, commits: Iterable[Commit]) -> dict[str, Any]:
    """The manifest of a cache, from the commits of all its shards in order."""
    commits = list(commits)
    document = {
        "header": header.to_json(),
        "files": [to_mapping(file) for commit in commits for file in commit.files],
        "invalid": [{"row": bad.row, "reason": bad.reason} for commit in commits for bad in commit.invalid],
    }
    return {**document, "cache_id": sha256_json(document)}


@dataclass(frozen=True)
class Manifest:
    """The manifest of a sealed cache."""

    header: CacheHeader
    files: tuple[StoredFile, ...]
    invalid: tuple[InvalidRow, ...]
    cache_id: str

    @classmethod
    def load(cls, root: Path) -> Manifest:
        """Reads the manifest. Raises CacheError if it is missing or damaged, or its files do not match its header."""
        path = root / MANIFEST
        document = read_json(path)
        try:
            header = CacheHeader.from_json(document["header"])
            found = from_mapping(_Listing, {key: document[key] for key in ("files", "invalid", "cache_id")}, "manifest")
        except (ConfigError, KeyError, TypeError) as error:
            raise CacheError(f"{path} is damaged: {error}") from error
        hashed: Mapping[str, Any] = {key: value for key, value in document.items() if key != "cache_id"}
        if sha256_json(hashed) != found.cache_id:
            raise CacheError(f"{path} is damaged: its hash is not its cache_id {found.cache_id}")
        if [file.key for file in found.files] != expected_keys(header):
            raise CacheError(f"{path} does not list the files of its header: it was not written by tokenreel")
        return cls(header, found.files, found.invalid, found.cache_id)


@dataclass(frozen=True)
class _Listing:
    files: tuple[StoredFile, ...]
    invalid: tuple[InvalidRow, ...]
    cache_id: str


def expected_keys(header: CacheHeader) -> list[str]:
    """The keys of all shard files of a cache, in the manifest's order."""
    return [array.key(shard) for shard in range(header.shards) for array in header.arrays]
