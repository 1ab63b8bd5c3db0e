"""The tables that frame-level controls come from, by their hashes: a cache is never made of two states of one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.controls.needs import TableSource
from tokenreel.data.sources.base import VideoSource
from tokenreel.errors import DataError
from tokenreel.tokenizers.controls.controls import Controls

TABLES = "tables"  # in a cache's provenance


def table_hashes(source: VideoSource, controls: Controls | None) -> dict[str, str]:
    """Hex sha256 by name of the files that the controls read; those that no file holds are left out."""
    needs = controls.needs.values() if controls else ()
    hashes = {need.file: source.table_sha256(need.file) for need in needs if isinstance(need, TableSource)}
    return {file: digest for file, digest in hashes.items() if digest is not None}


def require_same_tables(path: Path, begun: CacheHeader, now: Mapping[str, str]) -> None:
    """Raises DataError where a table is not what the cache at `path` was begun with."""
    then = begun.provenance.get(TABLES, {})
    changed = [file for file in now if file in then and now[file] != then[file]]
    if changed:
        raise DataError(
            f"{changed[0]} has changed since {path} was begun (sha256 {then[changed[0]][:12]}..., now "
            f"{now[changed[0]][:12]}...): give the table that it was begun with, or a new folder"
        )
