"""`tokenreel export`: a token cache or token file -> shards for training code that does not read Zarr."""

from __future__ import annotations

from typing import Any

from tokenreel.data.cache.export import export_webdataset
from tokenreel.data.cache.reader import TokenCache
from tokenreel.pipelines.common.progress import Progress
from tokenreel.pipelines.requests.tokenizing import ExportRequest


def run(request: ExportRequest) -> dict[str, Any]:
    """Writes the valid rows of `cache`, or of one split, into the new folder `out`; invalid rows are counted.

    Raises CacheError where the cache is not sealed, is damaged or has no such split or row, and where `out` is not
    empty.
    """
    cache = TokenCache.open(request.cache)
    with Progress(len(cache.rows(request.split)), "export", "sample") as bar:
        description = export_webdataset(cache, request.out, request.split, request.shard_rows, bar.advance)
    return {
        "out": str(request.out),
        "format": request.format,
        "cache_id": cache.cache_id,
        "samples": description["samples"],
        "invalid_rows": description["invalid_rows"],
        "shards": len(description["shards"]),
        "megabytes": round(sum(path.stat().st_size for path in request.out.iterdir()) / 1e6, 2),
    }
