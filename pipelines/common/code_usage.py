"""How the codes of a cache are used: counts over rows spread over it. Knows no pixel and no model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.order import spread
from tokenreel.metrics.codes import CodeCounter

MAX_ROWS = 4096  # read from anywhere in the cache, so each may cost a seek
MAX_CODES = 1 << 24  # counted in a few tenths of a second; rows of any size, at least one
CODES_AT_ONCE = 1 << 20  # in memory


def count_codes(cache: TokenCache) -> tuple[int, dict[str, CodeCounter]]:
    """(rows counted, counts by stream) of valid rows: all, or as many as the limits allow, evenly over the cache.

    Where videos are kept whole a row is a code step. Raises CacheError where a row is damaged.
    """
    codes_a_row = sum(math.prod(layout.row_shape) for layout in cache.header.streams.values())
    valid = np.flatnonzero(cache.column("valid") == 1)
    rows = spread(valid, min(MAX_ROWS, max(1, MAX_CODES // codes_a_row)))
    counters = {stream.name: CodeCounter(stream.codebook_size, stream.codebooks) for stream in cache.spec.streams}
    batch = max(1, CODES_AT_ONCE // codes_a_row)
    for first in range(0, len(rows), batch):
        for name, codes in cache.read(rows[first : first + batch], steps=1).items():
            counters[name].update(codes)
    return len(rows), counters


def code_use(counters: Mapping[str, CodeCounter]) -> dict[str, dict[str, Any]]:
    """LVT appendix A's figures by stream, a list over its codebooks for each. Every stream must have been counted."""
    return {name: _use(counter) for name, counter in counters.items()}


def _use(counter: CodeCounter) -> dict[str, Any]:
    books = counter.usage()
    return {
        "codes": books[0].codebook_size,
        "in_use": (counter.counts > 0).sum(axis=1).tolist(),
        "holding_80_percent": [use.holding_80_percent for use in books],
        "perplexity": [round(use.perplexity, 1) for use in books],
        "entropy_bits": [round(use.entropy, 3) for use in books],
    }
