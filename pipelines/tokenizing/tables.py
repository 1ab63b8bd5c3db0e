"""Hashes of the tables that frame-level controls are read from: a cache must not mix two versions of a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.controls.inputs import TableSource
from tokenreel.data.sources.base import VideoSource
from tokenreel.errors import DataError
from tokenreel.tokenizers.controls.controls import Controls

TABLE_HASHES = "tables"  # key in a cache's provenance


def table_hashes(source: VideoSource, controls: Controls | None) -> dict[str, str]:
    """Hex sha256 by name of the tables that `controls` read, except those that are not files."""
    tables = controls.sources.values() if controls else ()
    hashes = {table.file: source.table_sha256(table.file) for table in tables if isinstance(table, TableSource)}
    return {file: digest for file, digest in hashes.items() if digest is not None}


def require_same_tables(path: Path, header: CacheHeader, hashes: Mapping[str, str]) -> None:
    """Raises DataError if a table is not the one that the cache at `path` was started with."""
    recorded = header.provenance.get(TABLE_HASHES, {})
    changed = [file for file in hashes if file in recorded and hashes[file] != recorded[file]]
    if changed:
        raise DataError(
            f"{changed[0]} has changed since {path} was started (sha256 {recorded[changed[0]][:12]}..., now "
            f"{hashes[changed[0]][:12]}...): restore the table, or give a new folder"
        )
