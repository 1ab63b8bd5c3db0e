"""Statistics of a tokenizing run, and the limits at which it is stopped: undecodable clips, collapsed codebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenreel.data.cache.fill import FilledShard
from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.cache.reader import TokenCache
from tokenreel.errors import DataError
from tokenreel.pipelines.common.codebook_usage import count_tokens


class TokenizingStats:
    """Sums over the shards filled by this run. `max_invalid`: the fraction of all rows that may be invalid."""

    def __init__(self, header: CacheHeader, max_invalid: float) -> None:
        self._header = header
        self._max_invalid = max_invalid
        self._rows = self._invalid = 0
        self._first_invalid = ""
        self._decode_wait = self._encode = self._seconds = 0.0  # summed over workers

    def add(self, filled: FilledShard) -> None:
        """Raises DataError once more than `max_invalid` of all rows are invalid."""
        self._rows += filled.rows
        self._invalid += filled.invalid
        self._first_invalid = self._first_invalid or filled.first_invalid
        self._decode_wait += filled.decode_wait
        self._encode += filled.encode
        self._seconds += filled.seconds
        if self._invalid > self._max_invalid * self._header.rows:
            raise DataError(
                f"{self._invalid} of {self._rows} clips cannot be decoded, more than --max-bad-fraction "
                f"(={self._max_invalid}), such as {self._first_invalid}; the commits of the cache hold all reasons. "
                "Exclude those videos (--exclude, with a new --out), or raise --max-bad-fraction and run again"
            )

    def summary(self, seconds: float) -> dict[str, Any]:
        """`seconds`: wall time, loading and planning included. `*_fraction` are fractions of the workers' time."""
        tokens = self._rows * sum(layout.row_bytes // layout.dtype.itemsize for layout in self._header.streams.values())
        frames = self._rows * self._header.row_frames
        busy = max(self._seconds, 1e-9)
        return {
            "rows": self._rows,
            "tokens": tokens,
            "frames": frames,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
            "frames_per_second": round(frames / seconds, 1),
            "frames_per_worker_second": round(frames / busy, 1),
            "decode_fraction": round(self._decode_wait / busy, 4),
            "encode_fraction": round(self._encode / busy, 4),
        }


def require_no_collapse(path: Path, advice: str) -> None:
    """Raises DataError if a level has a collapsed codebook, counted on evenly spaced rows of the cache, sealed or not.

    `advice`: what the tokenizer suggests against it.
    """
    cache = TokenCache.open(path, allow_partial=True)
    rows, counters = count_tokens(cache)
    for level in cache.spec.levels if rows else ():
        use = min(counters[level.name].usage(), key=lambda use: use.entropy)
        if use.collapsed:
            raise DataError(
                f"{path} is not sealed: its level {level.name!r} has collapsed. In {rows} rows {use.used:.1%} of its "
                f"{use.codebook_size} codes occur, perplexity {use.perplexity:.1f}. Train the tokenizer again (its "
                f"validation reports codebook_usage and perplexity of each level): {advice}. tokenize-dataset "
                "--allow-collapsed seals it anyway"
            )
