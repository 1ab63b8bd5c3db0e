"""Commits and the manifest: the files of each shard, and the identity of the cache.

A commit is one shard's record, written after all of the shard's files. The manifest consists of the header and
the commits once all exist; its hash, `cache_id`, covers every byte of every array. What is hashed contains no
host, time or path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenreel.config import from_mapping, sha256_json, to_mapping
from tokenreel.data.cache.files import cannot_read, file_sha256, file_size, read_json
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
        """Whether the file exists with its full size; `matches` and the first read check its content."""
        return file_size(root / self.key) == self.nbytes

    def matches(self, root: Path) -> bool:
        """Whether the file contains exactly the bytes that were committed. Raises CacheError if it cannot be read."""
        if not self.present(root):
            return False
        try:
            with (root / self.key).open("rb") as file:
                return file_sha256(file) == self.sha256
        except OSError as error:
            raise cannot_read(root / self.key, error) from error


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

    def to_json(self) -> dict[str, Any]:
        """With its own hash: the reasons of invalid rows are stated nowhere else until the cache is sealed."""
        document = to_mapping(self)
        return {**document, "sha256": sha256_json(document)}

    @classmethod
    def load(cls, root: Path, shard: int, header: CacheHeader) -> Commit:
        """Reads a commit. Raises CacheError, naming the file, if it is missing, damaged, or lists other files than the
        shard's.
        """
        path = root / commit_key(shard)
        document = read_json(path)
        stated = document.pop("sha256", None)
        try:
            commit = from_mapping(cls, document, "commit")
        except ConfigError as error:
            raise CacheError(f"{path} is damaged: {error}. `tokenreel repair {root}` restores it") from error
        if commit.shard != shard or not _are_files_of(commit.files, header, range(shard, shard + 1)):
            raise CacheError(
                f"{path} is damaged: it lists other files than those of shard {shard}. "
                f"`tokenreel repair {root}` restores it"
            )
        if sha256_json(document) != stated:
            raise CacheError(f"{path} is damaged: its hash is not its sha256. `tokenreel repair {root}` restores it")
        return commit

    def complete(self, root: Path) -> bool:
        return all(file.present(root) for file in self.files)

    def matches(self, root: Path) -> bool:
        return all(file.matches(root) for file in self.files)


def commit_key(shard: int) -> str:
    return f"{COMMITS}/{shard:08d}.json"


def committed_shards(root: Path, header: CacheHeader) -> list[int]:
    """The shards that have a commit, ascending."""
    found = {int(path.stem) for path in (root / COMMITS).glob("[0-9]*.json") if path.stem.isdecimal()}
    return sorted(shard for shard in found if shard < header.shards)


def stored_files(root: Path, header: CacheHeader) -> list[StoredFile]:
    """The files of all arrays, as the manifest lists them, or the commits if the cache is not sealed.

    Raises CacheError if one of these documents is damaged.
    """
    if (root / MANIFEST).is_file():
        return list(Manifest.load(root).files)
    return [file for shard in committed_shards(root, header) for file in Commit.load(root, shard, header).files]


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
        if not _are_files_of(found.files, header, range(header.shards)):
            raise CacheError(f"{path} does not list the files of its header: it was not written by tokenreel")
        return cls(header, found.files, found.invalid, found.cache_id)


@dataclass(frozen=True)
class _Listing:
    files: tuple[StoredFile, ...]
    invalid: tuple[InvalidRow, ...]
    cache_id: str


def _are_files_of(files: Sequence[StoredFile], header: CacheHeader, shards: range) -> bool:
    """Whether `files` are all arrays' files of `shards`, in the manifest's order. A header may claim any number of
    shards, so their number is compared first.
    """
    if len(files) != len(shards) * len(header.arrays):
        return False
    sizes = [array.shard_bytes(shard) for shard in shards for array in header.arrays]
    return [file.key for file in files] == expected_keys(header, shards) and [file.nbytes for file in files] == sizes


def expected_keys(header: CacheHeader, shards: range | None = None) -> list[str]:
    """The keys of the files of these shards, or of all, in the manifest's order."""
    shards = range(header.shards) if shards is None else shards
    return [array.key(shard) for shard in shards for array in header.arrays]
