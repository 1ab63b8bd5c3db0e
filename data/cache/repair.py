"""Putting a cache's documents back where they are damaged, from those that are not: what repair does before shards.

The header lies in the root's metadata and in the manifest, so one restores the other; the arrays' metadata follow from
it. A damaged plan cannot be restored.
"""

from __future__ import annotations

from pathlib import Path

from tokenreel.data.cache.documents import ROOT, load_root, root_json
from tokenreel.data.cache.files import durable_put, readable
from tokenreel.data.cache.manifest import MANIFEST, Commit, Manifest, commit_key, committed_shards
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.errors import CacheError


def mend_documents(root: Path) -> list[str]:
    """Writes damaged metadata anew and removes damaged commits. Returns the keys of the files; [] if all were whole.

    Raises CacheError where neither the root's metadata nor the manifest can be read.
    """
    mended = _mend_root(root)
    header, cache_id = load_root(root)
    for array in header.arrays:
        data = readable(array.zarr_json())
        path = root / array.name / "zarr.json"
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            durable_put(path, data)
            mended.append(f"{array.name}/zarr.json")
    for shard in committed_shards(root):
        if not _readable(root, shard):
            (root / commit_key(shard)).unlink()
            mended.append(commit_key(shard))
    if cache_id is not None and not _whole_manifest(root):
        (root / MANIFEST).unlink(missing_ok=True)
        CacheWriter(root, header).seal(expected=cache_id)  # does nothing while shards are missing; repair seals later
        mended.append(MANIFEST)
    return mended


def _mend_root(root: Path) -> list[str]:
    try:
        load_root(root)
        return []
    except CacheError:
        if not (root / MANIFEST).is_file():
            raise
        manifest = Manifest.load(root)
        durable_put(root / ROOT, readable(root_json(manifest.header, manifest.cache_id)))
        return [ROOT]


def _readable(root: Path, shard: int) -> bool:
    try:
        return Commit.load(root, shard).shard == shard
    except CacheError:
        return False


def _whole_manifest(root: Path) -> bool:
    try:
        return Manifest.load(root).cache_id == load_root(root)[1]
    except CacheError:
        return False
