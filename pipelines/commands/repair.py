"""`tokenreel repair`: repairs a cache by tokenizing its damaged shards again, and only those.

The repaired cache has the identity that it was sealed with, or the repair fails: other tokens are never mixed in.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from tokenreel.data.cache.documents import CacheDocuments
from tokenreel.data.cache.manifest import commit_key
from tokenreel.data.cache.repair import repair_documents
from tokenreel.data.cache.verify import find_damage
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.plan import Plan
from tokenreel.data.sources.open import open_source
from tokenreel.errors import CacheError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.fingerprints import require_one_tokenizer
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.requests.tokenizing import RepairRequest
from tokenreel.pipelines.tokenizing.job import TokenizeJob, make_job
from tokenreel.pipelines.tokenizing.processes import fill_shards
from tokenreel.pipelines.tokenizing.tables import require_same_tables, table_hashes


def run(request: RepairRequest) -> dict[str, Any]:
    """Finds the damage and repairs it.

    Raises CacheError where that is not possible: a damaged plan, a token file of samples, another tokenizer.
    """
    started, path = time.perf_counter(), request.path
    repaired = repair_documents(path)
    documents = CacheDocuments.load(path)
    writer = CacheWriter(path, documents.header)
    shards = _damaged_shards(path, writer, documents)
    if shards:
        job = _job(request, documents)
        for shard in shards:
            (path / commit_key(shard)).unlink(missing_ok=True)
        for _ in progress(fill_shards(job, shards, request.workers), "repair", "shard", total=len(shards)):
            pass
    cache_id = writer.seal(expected=documents.cache_id)
    return {
        "path": str(path),
        "cache_id": cache_id,
        "repaired_files": repaired,
        "repaired_shards": shards,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _damaged_shards(path: Path, writer: CacheWriter, documents: CacheDocuments) -> list[int]:
    """The shards that differ from what was sealed, or, in an unfinished cache, from what was committed."""
    committed = writer.committed()
    watch = partial(progress, what="verify", unit="file")
    damaged = {damage.shard for damage in find_damage(path, documents.header, committed, watch)}
    return sorted(damaged | set(writer.pending()) if documents.cache_id else damaged)


def _job(request: RepairRequest, documents: CacheDocuments) -> TokenizeJob:
    """The job that tokenizes the damaged shards as before. Raises CacheError where that is not possible."""
    path, header = request.path, documents.header
    if header.kind not in ("clips", "videos"):
        raise CacheError(f"{path} holds {header.kind}, which cannot be made again from videos: write it anew")
    tokenizer = request.tokenizer or documents.origin.get("tokenizer")
    controls = request.controls or documents.origin.get("controls")
    data = request.data or documents.origin.get("data")
    encoders = [stream.encoder_fingerprint for stream in header.spec.streams if stream.encoder_fingerprint is not None]
    if tokenizer is None or data is None or (encoders and controls is None):  # a cache from the Hub does not say
        raise CacheError(
            f"{path} does not say where its tokenizer and its videos are: give --tokenizer and --data"
            + (", and --controls for its controls" if encoders else "")
        )
    kind = "cpu" if str(header.provenance["device"]).startswith("cpu") else "cuda"
    device = str(choose_device(request.device or kind))
    job = make_job(path, tokenizer, data, device, header.provenance["precision"], controls)
    found = job.load_tokenizer().code_fingerprint
    require_one_tokenizer({str(path): header.code_fingerprint, f"--tokenizer {tokenizer}": found})
    loaded = job.load_controls()
    if loaded is not None and [stream.encoder_fingerprint for stream in loaded.streams(header.spec.frames)] != encoders:
        raise CacheError(f"{path} was made with other controls than --controls {controls}: give those")
    source = open_source(data)
    Plan.from_json(documents.plan).require_source(source)
    require_same_tables(path, header, table_hashes(source, loaded))
    return job
