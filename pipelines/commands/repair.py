"""`tokenreel repair`: mends a damaged cache by tokenizing the damaged shards again, and only those.

The mended cache has the identity that it was sealed with, or the repair fails: codes that differ are never mixed in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenreel.data.cache.documents import CacheDocuments
from tokenreel.data.cache.manifest import commit_key
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.repair import mend_documents
from tokenreel.data.cache.verify import find_damage
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.plan import Plan
from tokenreel.data.sources.open import open_source
from tokenreel.errors import CacheError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.tokenizing.job import TokenizeJob, make_job
from tokenreel.pipelines.tokenizing.processes import fill
from tokenreel.pipelines.tokenizing.tables import require_same_tables, table_hashes


def run(
    *,
    path: Path,
    tokenizer: str | None = None,
    controls: str | None = None,
    data: str | None = None,
    device: str | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Finds the damage and mends it; `tokenizer`, `controls` and `data` where they are not where they were.

    Raises CacheError where it cannot be mended: a damaged plan, a token file of samples, another tokenizer.
    """
    started = time.perf_counter()
    mended = mend_documents(path)
    documents = CacheDocuments.load(path)
    writer = CacheWriter(path, documents.header)
    shards = _damaged_shards(path, writer, documents)
    if shards:
        job = _job(path, documents, {"tokenizer": tokenizer, "controls": controls, "data": data}, device)
        for shard in shards:
            (path / commit_key(shard)).unlink(missing_ok=True)
        for _ in progress(fill(job, shards, workers), "repair", "shard", total=len(shards)):
            pass
    cache_id = writer.seal(expected=documents.cache_id)
    return {
        "path": str(path),
        "cache_id": cache_id,
        "mended_files": mended,
        "mended_shards": shards,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _damaged_shards(path: Path, writer: CacheWriter, documents: CacheDocuments) -> list[int]:
    """Those that are not what was sealed, or, where the cache is not finished, not what was committed."""
    missing = set(writer.pending())
    committed = frozenset(range(documents.header.shards)) - missing
    damaged = {damage.shard for damage in find_damage(TokenCache(path, documents, committed))}
    return sorted(damaged | missing if documents.cache_id else damaged)


def _job(path: Path, documents: CacheDocuments, places: Mapping[str, str | None], device: str | None) -> TokenizeJob:
    """What tokenizes the damaged shards as it did before. Raises CacheError where that cannot be."""
    header = documents.header
    if header.kind not in ("clips", "videos"):
        raise CacheError(f"{path} holds {header.kind}, which cannot be made again from videos: write it anew")
    tokenizer, controls, data = (place or documents.origin.get(name) for name, place in places.items())
    coders = [stream.encoder_fingerprint for stream in header.spec.streams if stream.encoder_fingerprint is not None]
    if tokenizer is None or data is None or (coders and controls is None):  # a cache from the Hub does not say
        raise CacheError(
            f"{path} does not say where its tokenizer and its videos are: give --tokenizer and --data"
            + (", and --controls for its tracks" if coders else "")
        )
    kind = "cpu" if str(header.provenance["device"]).startswith("cpu") else "cuda"
    job = make_job(path, tokenizer, data, str(choose_device(device or kind)), header.provenance["precision"], controls)
    found = job.load_tokenizer().code_fingerprint
    if found != header.code_fingerprint:
        raise CacheError(
            f"{path} holds codes of the tokenizer {header.code_fingerprint}, but {tokenizer} is {found}: "
            "give the one that made them"
        )
    loaded = job.load_controls()
    if loaded is not None and [stream.encoder_fingerprint for stream in loaded.streams(header.spec.frames)] != coders:
        raise CacheError(
            f"{path} holds tracks of other controls than those of {controls}: give the ones that made them"
        )
    source = open_source(data)
    Plan.from_json(documents.plan).require_source(source)
    require_same_tables(path, header, table_hashes(source, loaded))
    return job
