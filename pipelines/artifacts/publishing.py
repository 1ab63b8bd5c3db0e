"""Verification of what is uploaded to or downloaded from the Hub: saved models and sealed token caches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenreel.data.cache.documents import ORIGIN, PLAN, ROOT, SOURCES
from tokenreel.data.cache.layout import STREAMS
from tokenreel.data.cache.manifest import MANIFEST
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.verify import verify_cache
from tokenreel.errors import HubError
from tokenreel.hub import CARD_FILE, CONFIG_FILE, MODEL_FILES, Upload
from tokenreel.pipelines.artifacts.verification import verify_model


@dataclass(frozen=True)
class Artifact:
    """A verified model or token cache."""

    kind: str
    identity: str  # weights_fingerprint, or cache_id
    upload: Upload


def inspect_artifact(path: Path) -> Artifact:
    """The artifact in the folder `path`, after verifying all of it.

    Raises HubError or CacheError if there is none that can be published, or if it is damaged.
    """
    if (path / CONFIG_FILE).is_file():
        return _model(path)
    if (path / MANIFEST).is_file():
        return _cache(path)
    if not path.is_dir():
        raise HubError(f"{path} is not a folder: give the folder of a saved model or of a sealed token cache")
    raise HubError(f"{path} holds neither a saved model ({CONFIG_FILE}) nor a sealed token cache ({MANIFEST})")


def _model(path: Path) -> Artifact:
    verified = verify_model(path)
    return Artifact(verified["kind"], verified["weights_fingerprint"], Upload("model", MODEL_FILES))


def _cache(path: Path) -> Artifact:
    verify_cache(path)
    cache = TokenCache.open(path)
    arrays = tuple(f"{array.name}/*" for array in cache.header.arrays)
    upload = Upload(
        "dataset",
        files=(PLAN, SOURCES, ROOT, f"{STREAMS}/{ROOT}", *arrays),
        last=(MANIFEST,),
        # private, so not uploaded: paths of data and tokenizer, and those in reasons of invalid rows (commits/)
        texts={CARD_FILE: _cache_card(cache), ORIGIN: "{}\n"},
    )
    return Artifact("token cache", str(cache.cache_id), upload)


def _cache_card(cache: TokenCache) -> str:
    facts = {
        "cache_id": cache.cache_id,
        "rows": f"{cache.row_count:,}",
        "frames per clip": cache.spec.frames,
        "streams": ", ".join(f"{s.name} {list(s.shape)} of {s.codebook_size} codes" for s in cache.spec.streams),
        "tokenizer (code fingerprint)": cache.code_fingerprint,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""---
library_name: tokenreel
tags: [tokenreel, video-generation, token-cache]
---

# Video tokens

Discrete tokens of videos, a Zarr v3 group written by tokenreel. `tokenreel pull OWNER/NAME DIR` fetches and verifies
it, `tokenreel train-prior --cache DIR` trains on it.

| | |
|---|---|
{table}

```json
{json.dumps(cache.spec.to_json(), indent=2)}
```
"""
