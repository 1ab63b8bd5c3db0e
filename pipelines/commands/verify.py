"""`tokenreel verify`: is a cache, token file, run or saved model whole? Reads every byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.verify import find_damage
from tokenreel.errors import CacheError
from tokenreel.pipelines.common.path_kind import PathKind, kind_of

SHOWN = 10  # damaged files named in the message


def run(*, path: Path) -> dict[str, Any]:
    """The summary of a whole thing. Raises the error of its kind, naming each damaged file, where it is not whole."""
    kind = kind_of(path)
    if kind is PathKind.CACHE:
        return verify_cache(path)
    from tokenreel.pipelines.common.verify_models import (  # these import torch
        verify_checkpoint,
        verify_model,
        verify_run,
    )

    return {PathKind.RUN: verify_run, PathKind.CHECKPOINT: verify_checkpoint, PathKind.MODEL: verify_model}[kind](path)


def verify_cache(path: Path) -> dict[str, Any]:
    """Raises CacheError, naming files and rows, where a byte of the cache is not what was written."""
    cache = TokenCache.open(path, allow_partial=True)
    damage = find_damage(cache)
    if damage:
        more = f"\n  and {len(damage) - SHOWN} more" if len(damage) > SHOWN else ""
        listing = "".join(f"\n  {one}" for one in damage[:SHOWN])
        raise CacheError(f"{path} is damaged:{listing}{more}\n`tokenreel repair {path}` makes damaged shards anew")
    return {
        "path": str(path),
        "whole": True,
        "sealed": cache.cache_id is not None,
        "cache_id": cache.cache_id,
        "shards": len(cache.shards),
        "missing_shards": cache.header.shards - len(cache.shards),
        "bytes": sum(map(cache.header.bytes_of, cache.shards)),
    }
