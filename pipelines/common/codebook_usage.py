"""How often the codes of a cache's codebooks occur, counted on evenly spaced rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.order import evenly_spaced
from tokenreel.metrics.codes import CodeCounter
from tokenreel.pipelines.common.progress import progress

MAX_ROWS = 4096  # each may cost a seek
MAX_TOKENS = 1 << 24  # counted in a few tenths of a second
TOKENS_AT_ONCE = 1 << 20  # in memory at once


def count_tokens(cache: TokenCache) -> tuple[int, dict[str, CodeCounter]]:
    """(number of rows counted, counts by stream) of valid rows: all, or as many evenly spaced ones as the limits allow.

    In a cache of whole videos a row is a code step. Raises CacheError if a row is damaged.
    """
    tokens_per_row = sum(math.prod(layout.row_shape) for layout in cache.header.streams.values())
    rows = evenly_spaced(cache.valid_rows(), min(MAX_ROWS, max(1, MAX_TOKENS // tokens_per_row)))
    counters = {stream.name: CodeCounter(stream.codebook_size, stream.codebooks) for stream in cache.spec.streams}
    batch = max(1, TOKENS_AT_ONCE // tokens_per_row)
    for first in progress(range(0, len(rows), batch), "count tokens", "batch"):
        for name, tokens in cache.read(rows[first : first + batch], steps=1).items():
            counters[name].update(tokens)
    return len(rows), counters


def codebook_usage(counters: Mapping[str, CodeCounter]) -> dict[str, dict[str, Any]]:
    """The statistics of LVT appendix A by stream, each a list over its codebooks. No stream may be without counts."""
    return {name: _usage(counter) for name, counter in counters.items()}


def _usage(counter: CodeCounter) -> dict[str, Any]:
    codebooks = counter.usage()
    return {
        "codebook_size": codebooks[0].codebook_size,
        "in_use": (counter.counts > 0).sum(axis=1).tolist(),
        "holding_80_percent": [use.holding_80_percent for use in codebooks],
        "perplexity": [round(use.perplexity, 1) for use in codebooks],
        "entropy_bits": [round(use.entropy, 3) for use in codebooks],
    }
