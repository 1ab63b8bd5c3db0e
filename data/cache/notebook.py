"""How a notebook displays a cache."""

from __future__ import annotations

import html
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenreel.data.cache.reader import TokenCache

MAX_CLASSES = 10  # named in the table


def cache_table(cache: TokenCache) -> str:
    """A table in HTML: what the metadata state, all of it escaped. No array is read."""
    videos = cache.plan["videos"]
    splits = Counter(str(video["split"]) for video in videos if "split" in video)
    classes = [*cache.classes[:MAX_CLASSES], *(["..."] if len(cache.classes) > MAX_CLASSES else [])]
    facts = {
        "path": str(cache.path),
        "rows": f"{cache.row_count:,} of {cache.kind}",
        "sources": ", ".join(f"{count:,} {split}" for split, count in sorted(splits.items())) or f"{len(videos):,}",
        "classes": ", ".join(classes) or "none",
        "frames": str(cache.spec.frames),
        **{
            f"{stream.role} {stream.name}": f"{list(stream.shape)} of {stream.codebook_size:,} codes"
            for stream in cache.spec.streams
        },
        "tokens of": cache.code_fingerprint[:8],
        "cache_id": cache.cache_id or f"not sealed, {len(cache.shards)} of {cache.header.shards} shards",
    }
    rows = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items())
    return f"<table>{''.join(rows)}</table>"
