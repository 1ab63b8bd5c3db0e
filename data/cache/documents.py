"""The documents of a cache: root metadata, plan, sources and origin, written before any array, strictly validated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenreel.config import canonical_json
from tokenreel.data.cache.files import file_size, parse_json, read_bytes, read_json, readable_json
from tokenreel.data.cache.layout import STREAMS, CacheHeader
from tokenreel.data.plan_config import plan_sha256
from tokenreel.errors import CacheError, ConfigError

ROOT = "zarr.json"
PLAN = "plan.json"
SOURCES = "sources.jsonl"  # one line for each video (or sample), as Zarr has no standard for strings
ORIGIN = "origin.json"  # locations of data and tokenizer, used by repair, and the inventory; not hashed
ATTRIBUTES = "tokenreel"
_OTHER_CONTENT = {  # by a file of the folder
    "samples.json": "holds a generator's samples, which are videos already, without tokens",
    "config.json": "is a saved model and not a token cache",
}


@dataclass(frozen=True)
class CacheDocuments:
    """All of a cache except its arrays."""

    header: CacheHeader
    plan: Mapping[str, Any]  # with `videos`, the lines of sources.jsonl
    origin: Mapping[str, Any]
    cache_id: str | None = None  # None until it is sealed

    def files(self) -> dict[str, bytes]:
        """The files of an unsealed cache without its shards, by key."""
        plan = {key: value for key, value in self.plan.items() if key != "videos"}
        return {
            **{key: readable_json(document) for key, document in metadata_documents(self.header).items()},
            PLAN: readable_json(plan),
            SOURCES: b"".join(canonical_json(video) + b"\n" for video in self.plan["videos"]),
            ORIGIN: readable_json(self.origin),
            ROOT: readable_json(root_json(self.header, None)),
        }

    @classmethod
    def load(cls, root: Path) -> CacheDocuments:
        """Reads the documents. Raises CacheError, naming the file, if one is missing, damaged or contradictory."""
        header, cache_id = load_root(root)
        for key, expected in metadata_documents(header).items():
            if file_size(root / key) is None or read_json(root / key) != expected:
                raise CacheError(
                    f"{root / key} does not match the header of the cache: it is missing, damaged or was edited. "
                    f"`tokenreel repair {root}` restores it"
                )
        plan = {**read_json(root / PLAN), "videos": _read_lines(root / SOURCES)}
        if plan_sha256(plan) != header.plan_sha256:
            raise CacheError(
                f"{root / PLAN} or {root / SOURCES} is damaged: their hash is not {header.plan_sha256}. Nothing else "
                "holds them: restore them from a copy, or write the cache anew"
            )
        if header.kind in ("samples", "codes") and header.rows != len(plan["videos"]):
            raise CacheError(f"{root} claims {header.rows} rows, but {SOURCES} describes {len(plan['videos'])}")
        return cls(header, plan, read_json(root / ORIGIN), cache_id)

    def require_same(self, other: CacheDocuments, path: Path) -> None:
        """Raises CacheError, naming the difference, unless both describe the same cache."""
        ours, theirs = self.header.to_json(), other.header.to_json()
        different = [key for key in theirs if ours.get(key) != theirs[key]]
        if different:
            key = "code_fingerprint" if "code_fingerprint" in different else different[0]
            raise CacheError(
                f"{path} holds another token cache: its {key} is {_short(ours.get(key))}, this one's is "
                f"{_short(theirs[key])}. Give a new folder, or the data, tokenizer and flags with which it was started"
            )


def load_root(root: Path) -> tuple[CacheHeader, str | None]:
    """The header and the cache_id (None if it is not sealed). Raises CacheError if `root` is not a token cache."""
    header, cache_id = read_header(root)
    if read_json(root / ROOT) != root_json(header, cache_id):
        raise CacheError(
            f"{root / ROOT} contains more than the header of the cache, as after zarr.consolidate_metadata. "
            f"`tokenreel repair {root}` restores it"
        )
    return header, cache_id


def read_header(root: Path) -> tuple[CacheHeader, str | None]:
    """As `load_root`, whatever else the root's metadata contain."""
    path = root / ROOT
    if file_size(path) is None:
        raise CacheError(f"{root} {_other_content(root)}; give the folder that tokenize-dataset or sample wrote")
    document = read_json(path)
    try:
        attributes = document["attributes"][ATTRIBUTES]
        return CacheHeader.from_json(attributes["header"]), attributes["cache_id"]
    except (ConfigError, KeyError, TypeError) as error:
        raise CacheError(f"{path} does not describe a readable token cache: {error}") from error


def _other_content(root: Path) -> str:
    """What is in a folder that holds no cache."""
    for name, content in _OTHER_CONTENT.items():
        if (root / name).is_file():
            return content
    return f"is not a token cache: {ROOT} is missing" if root.exists() else "does not exist"


def root_json(header: CacheHeader, cache_id: str | None) -> dict[str, Any]:
    """The Zarr v3 group metadata of the cache."""
    state = "building" if cache_id is None else "sealed"
    return _group_json({ATTRIBUTES: {"state": state, "cache_id": cache_id, "header": header.to_json()}})


def metadata_documents(header: CacheHeader) -> dict[str, dict[str, Any]]:
    """The Zarr v3 metadata of all below the root, by key: the group of the streams, and every array."""
    arrays = {f"{array.name}/{ROOT}": array.zarr_json() for array in header.arrays}
    return {f"{STREAMS}/{ROOT}": _group_json({}), **arrays}


def _group_json(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [parse_json(path, line) for line in read_bytes(path).splitlines()]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 100 else f"{text[:97]}..."
