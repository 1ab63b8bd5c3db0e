"""A cache in which a level's codes hardly differ is not sealed: its prior would learn nothing, and nobody notice."""

from __future__ import annotations

from pathlib import Path

from tokenreel.data.cache.reader import TokenCache
from tokenreel.errors import DataError
from tokenreel.pipelines.code_use import count_codes


def require_no_collapse(path: Path, advice: str) -> None:
    """Raises DataError where a codebook of a level has collapsed, over rows spread over the cache, sealed or not.
    `advice`: what helps against it, as the tokenizer has it.
    """
    cache = TokenCache.open(path, allow_partial=True)
    rows, counters = count_codes(cache)
    for level in cache.spec.levels if rows else ():
        use = min(counters[level.name].use(), key=lambda use: use.entropy)
        if use.collapsed:
            raise DataError(
                f"{path} is not sealed: its level {level.name!r} has collapsed. In {rows} rows {use.used:.1%} of its "
                f"{use.codes} codes occur, perplexity {use.perplexity:.1f}. Train the tokenizer anew (its validation "
                f"shows codes_used and perplexity of each level): {advice}. Or run the same command with "
                "--allow-collapsed"
            )
