"""Restores damaged documents of a cache from intact ones: the first step of repair, before the shards.

The header is in the root's metadata and in the manifest, so each restores the other; the arrays' metadata follow from
it. So do manifest and commits, but for what people read of the reasons of invalid rows. A damaged plan cannot be
restored.
"""

from __future__ import annotations

from pathlib import Path

from tokenreel.data.cache.documents import ROOT, load_root, metadata_documents, read_header, root_json
from tokenreel.data.cache.files import durable_put, readable_json
from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.cache.manifest import MANIFEST, Commit, Manifest, commit_key, committed_shards
from tokenreel.data.cache.writer import CacheWriter, restore_commits
from tokenreel.errors import CacheError


def repair_documents(root: Path) -> list[str]:
    """Rewrites damaged metadata, and commits by the manifest; without one, damaged commits are removed.

    Returns the keys of these files.

    Raises CacheError if neither the root's metadata nor the manifest can be read.
    """
    repaired = _repair_root(root)
    header, cache_id = load_root(root)
    for key, document in metadata_documents(header).items():
        data, path = readable_json(document), root / key
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            durable_put(path, data)
            repaired.append(key)
    for shard in committed_shards(root, header):
        if not _commit_is_intact(root, shard, header):
            (root / commit_key(shard)).unlink()
            repaired.append(commit_key(shard))
    if cache_id is None:
        return repaired
    if _manifest_is_intact(root):
        return [*repaired, *(key for key in restore_commits(root, header) if key not in repaired)]
    (root / MANIFEST).unlink(missing_ok=True)
    CacheWriter(root, header).seal(expected=cache_id)  # no effect while shards are missing; repair seals later
    return [*repaired, MANIFEST]


def _repair_root(root: Path) -> list[str]:
    try:
        load_root(root)
        return []
    except CacheError:
        manifest = Manifest.load(root) if (root / MANIFEST).is_file() else None
        header, cache_id = read_header(root) if manifest is None else (manifest.header, manifest.cache_id)
        durable_put(root / ROOT, readable_json(root_json(header, cache_id)))
        return [ROOT]


def _commit_is_intact(root: Path, shard: int, header: CacheHeader) -> bool:
    try:
        Commit.load(root, shard, header)
    except CacheError:
        return False
    return True


def _manifest_is_intact(root: Path) -> bool:
    try:
        return Manifest.load(root).cache_id == load_root(root)[1]
    except CacheError:
        return False
