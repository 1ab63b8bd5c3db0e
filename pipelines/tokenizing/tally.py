"""Counts what tokenizing took, and stops it when too much does not decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenreel.data.cache.fill import FilledShard
from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.cache.reader import TokenCache
from tokenreel.errors import DataError
from tokenreel.pipelines.common.code_usage import count_codes


class Tally:
    """Sums over the shards that this call has filled; `limit` is the share of all rows that may be invalid."""

    def __init__(self, header: CacheHeader, limit: float) -> None:
        self._header = header
        self._limit = limit
        self._rows = self._invalid = 0
        self._first_invalid = ""
        self._decode_wait = self._encode = self._seconds = 0.0  # summed over workers

    def add(self, filled: FilledShard) -> None:
        """Raises DataError once the limit is passed."""
        self._rows += filled.rows
        self._invalid += filled.invalid
        self._first_invalid = self._first_invalid or filled.first_invalid
        self._decode_wait += filled.decode_wait
        self._encode += filled.encode
        self._seconds += filled.seconds
        if self._invalid > self._limit * self._header.rows:
            raise DataError(
                f"{self._invalid} of {self._rows} clips do not decode, more than --max-bad-fraction (={self._limit}), "
                f"as {self._first_invalid}; the commits of the cache hold all reasons. Leave those videos out by "
                "--exclude into a new folder, or raise --max-bad-fraction and run the same command again"
            )

    def summary(self, seconds: float) -> dict[str, Any]:
        """`seconds` of wall time, loading and planning included; the shares are of the workers' own time."""
        codes = sum(layout.row_bytes // layout.dtype.itemsize for layout in self._header.streams.values())
        frames = self._rows * self._header.row_frames
        busy = max(self._seconds, 1e-9)
        return {
            "rows": self._rows,
            "tokens": self._rows * codes,
            "frames": frames,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(self._rows * codes / seconds, 1),
            "frames_per_second": round(frames / seconds, 1),
            "frames_per_worker_second": round(frames / busy, 1),
            "decode_share": round(self._decode_wait / busy, 4),
            "encode_share": round(self._encode / busy, 4),
        }


def require_no_collapse(path: Path, advice: str) -> None:
    """Raises DataError where a codebook of a level has collapsed, over rows spread over the cache, sealed or not.

    `advice`: what helps against it, from the tokenizer.
    """
    cache = TokenCache.open(path, allow_partial=True)
    rows, counters = count_codes(cache)
    for level in cache.spec.levels if rows else ():
        use = min(counters[level.name].usage(), key=lambda use: use.entropy)
        if use.collapsed:
            raise DataError(
                f"{path} is not sealed: its level {level.name!r} has collapsed. In {rows} rows {use.used:.1%} of its "
                f"{use.codebook_size} codes occur, perplexity {use.perplexity:.1f}. Train the tokenizer anew (its "
                f"validation shows codes_used and perplexity of each level): {advice}. Or run the same command with "
                "--allow-collapsed"
            )
