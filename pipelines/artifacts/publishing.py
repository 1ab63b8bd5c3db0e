"""Verification of what is uploaded to or downloaded from the Hub: saved models and sealed token caches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tokenreel.data.cache.documents import ORIGIN, PLAN, ROOT, SOURCES, CacheDocuments
from tokenreel.data.cache.layout import COLUMNS
from tokenreel.data.cache.manifest import MANIFEST, expected_keys
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.verify import verify_cache
from tokenreel.errors import HubError
from tokenreel.hub import CARD_FILE, CONFIG_FILE, MODEL_FILES
from tokenreel.pipelines.artifacts.verification import verify_model
from tokenreel.pipelines.common.progress import progress
from tokenreel.repositories import RepoType, Upload

DOWNLOADS: dict[RepoType, tuple[str, ...]] = {  # glob patterns of what may be an artifact's file
    "model": MODEL_FILES,
    "dataset": (CARD_FILE, ORIGIN, PLAN, SOURCES, ROOT, MANIFEST, "streams/*", *(f"{name}/*" for name in COLUMNS)),
}


@dataclass(frozen=True)
class Artifact:
    """A verified model or token cache."""

    kind: str
    identity: str  # weights_fingerprint, or cache_id
    upload: Upload
    files: frozenset[str]  # all that belongs to it, by path below its folder

    def strays(self, path: Path) -> Iterator[str]:
        """The files in its folder `path` that do not belong to it, by path below the folder."""
        names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_symlink() or file.is_file())
        return (name for name in names if name not in self.files)


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
    return Artifact(
        verified["kind"], verified["weights_fingerprint"], Upload("model", MODEL_FILES), frozenset(MODEL_FILES)
    )


def _cache(path: Path) -> Artifact:
    verify_cache(path, partial(progress, what="verify", unit="file"))
    cache = TokenCache.open(path)
    documents = CacheDocuments.load(path).files().keys()
    upload = Upload(
        "dataset",
        files=(*sorted(documents - {ORIGIN}), *(f"{array.name}/c/*" for array in cache.header.arrays)),
        last=(MANIFEST,),
        # private, so not uploaded: paths of data and tokenizer, and those in reasons of invalid rows (commits/)
        texts={CARD_FILE: _cache_card(cache), ORIGIN: "{}\n"},
    )
    files = frozenset((*documents, *expected_keys(cache.header), MANIFEST, CARD_FILE))
    return Artifact("token cache", str(cache.cache_id), upload, files)


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
