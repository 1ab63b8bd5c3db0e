"""WebDataset shards of a cache hold its tokens, as webdataset reads them, and are deterministic."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from webdataset_samples import read_samples

from tokenreel.data.cache.export import DESCRIPTION, export_webdataset
from tokenreel.data.cache.layout import CacheHeader, Kind
from tokenreel.data.cache.manifest import InvalidRow
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.plan_config import plan_sha256
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import CacheError, ConfigError

STREAMS = (
    StreamSpec("top", (3, 2, 5), codebook_size=17),
    StreamSpec("video", (3, 5, 7), codebook_size=509, codebooks=2),
    StreamSpec("_state", (3, 1, 1), codebook_size=70_001, role="control"),
)
SPEC = TokenSpec(STREAMS, frames=3, framing=Framing(11, 13))
VIDEOS = 7
ROWS = 37
INVALID = (0, 11, 36)


def write_cache(
    path: Path, spec: TokenSpec = SPEC, kind: Kind = "clips", row_frames: int = 3, seal: bool = True
) -> TokenCache:
    """A cache of ROWS rows of VIDEOS videos, with a few that are invalid."""
    videos = [{"id": f"v/{i}.mp4", "split": "validation" if i % 3 == 0 else "train"} for i in range(VIDEOS)]
    plan = {"classes": ["fall", "push"], "videos": videos}
    header = CacheHeader(kind, spec, row_frames, ROWS, 16, "fingerprint", plan_sha256(plan), {"tokenizer": "t"})
    random = np.random.default_rng(0)
    source = np.sort(random.integers(0, VIDEOS, ROWS)).astype(np.int32)
    arrays: dict[str, np.ndarray] = {
        **{s.name: random.integers(0, s.codebook_size, (ROWS, *header.row_shape(s))) for s in spec.streams},
        "valid": np.array([row not in INVALID for row in range(ROWS)], np.uint8),
        "label": (source % 3 - 1).astype(np.int32),
        "source": source,
        "first_frame": np.arange(ROWS, dtype=np.int64) * 5,
    }
    for stream in spec.streams:
        arrays[stream.name][list(INVALID)] = header.streams[stream.name].fill_value
    writer = CacheWriter.create(path, header, plan, {})
    for shard in writer.pending():
        part = header.columns["valid"].rows_of(shard)
        values = {name: array[part.start : part.stop] for name, array in arrays.items()}
        writer.put(shard, values, [InvalidRow(row, "corrupt") for row in INVALID if row in part])
    if seal:
        writer.seal()
    return TokenCache.open(path, allow_partial=not seal)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    return write_cache(tmp_path_factory.mktemp("cache") / "tokens")


def read_back(out: Path, spec: TokenSpec = SPEC) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The JSON of all samples, and their tokens by stream."""
    fields, tokens = [], []
    for shard in sorted(out.glob("*.tar")):
        for key, sample in read_samples(shard):
            assert sample.keys() == {"json", *(f"{stream.name}.npy" for stream in spec.streams)}
            fields.append(json.loads(sample.pop("json")))
            assert key == f"{fields[-1]['row']:08d}"
            arrays = {name: np.load(io.BytesIO(data), allow_pickle=False) for name, data in sample.items()}
            tokens.append(arrays)
    return fields, {s.name: np.stack([sample[f"{s.name}.npy"] for sample in tokens]) for s in spec.streams}


def require_same(exported: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert exported.keys() == expected.keys()
    for name, values in expected.items():
        assert exported[name].dtype == values.dtype
        np.testing.assert_array_equal(exported[name], values)


@pytest.mark.parametrize("split", [None, "train", "validation"])
def test_exported_tokens_equal_those_of_the_cache(cache: TokenCache, tmp_path: Path, split: str | None) -> None:
    counts: list[int] = []
    description = export_webdataset(cache, tmp_path / "out", split, shard_rows=11, advance=counts.append)
    fields, tokens = read_back(tmp_path / "out")
    rows = cache.rows(split)
    require_same(tokens, cache.read(rows))
    assert [sample["row"] for sample in fields] == rows.tolist()
    assert description["samples"] == sum(counts) == len(rows)
    splits = ["validation" if source % 3 == 0 else "train" for source in cache.column("source")]
    assert description["invalid_rows"] == sum(split in (None, splits[row]) for row in INVALID)


def test_each_sample_has_its_metadata(cache: TokenCache, tmp_path: Path) -> None:
    export_webdataset(cache, tmp_path / "out")
    for sample in read_back(tmp_path / "out")[0]:
        row, source = sample["row"], int(cache.column("source")[sample["row"]])
        label = source % 3 - 1
        assert sample == {
            "row": row,
            "source": f"v/{source}.mp4",
            "first_frame": 5 * row,
            "split": "validation" if source % 3 == 0 else "train",
            "label": None if label < 0 else label,
            "class": None if label < 0 else ["fall", "push"][label],
        }


def test_the_folder_describes_the_shards(cache: TokenCache, tmp_path: Path) -> None:
    returned = export_webdataset(cache, tmp_path / "out", shard_rows=11)
    description = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    assert description == returned
    assert TokenSpec.from_json(description["spec"]) == SPEC
    assert (description["cache_id"], description["code_fingerprint"]) == (cache.cache_id, "fingerprint")
    assert description["classes"] == ["fall", "push"]
    assert all(sample.keys() == description["columns"].keys() for sample in read_back(tmp_path / "out")[0])
    assert description["shards"] == {
        "tokens-000000.tar": 11, "tokens-000001.tar": 11, "tokens-000002.tar": 11, "tokens-000003.tar": 1
    }  # fmt: skip
    for name, samples in description["shards"].items():
        assert len(read_samples(tmp_path / "out" / name)) == samples
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_the_same_call_gives_the_same_bytes(cache: TokenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_webdataset(cache, tmp_path / "first", shard_rows=11)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    monkeypatch.setattr("tokenreel.data.cache.export.READ_BYTES", 1)
    export_webdataset(cache, tmp_path / "second", shard_rows=11)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    with tarfile.open(tmp_path / "first" / "tokens-000000.tar") as tar:
        assert {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0o644, 0, 0, "", "")}


def test_whole_videos_become_windows_that_do_not_overlap(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "tokens", kind="videos", row_frames=1)
    export_webdataset(cache, tmp_path / "out")
    fields, tokens = read_back(tmp_path / "out")
    assert cache.row_steps == 3
    assert [sample["row"] for sample in fields] == cache.rows().tolist()
    require_same(tokens, cache.read(cache.rows()))


@pytest.mark.parametrize("name", ["pipe:touch x", "50%d", "http:", "out"])
def test_folder_names_may_have_special_characters(
    cache: TokenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    export_webdataset(cache, Path(name), shard_rows=ROWS)
    assert sorted(path.name for path in Path(name).iterdir()) == [DESCRIPTION, "tokens-000000.tar"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "tokens")
    path = tmp_path / "tokens" / cache.header.streams["video"].key(2)
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(CacheError, match="do not match their checksum"):
        export_webdataset(cache, tmp_path / "out", shard_rows=5)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_impossible_exports_are_refused(cache: TokenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(CacheError, match=f"--out {out} already exists and is not empty"):
            export_webdataset(cache, out)
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    for nameless in (Path(), out / ".."):
        with pytest.raises(CacheError, match="has no name of its own"):
            export_webdataset(cache, nameless)
    monkeypatch.chdir(tmp_path)
    out.rmdir()
    with pytest.raises(CacheError, match="no split 'test'"):
        export_webdataset(cache, out, "test")
    with pytest.raises(ConfigError, match=r"shard_rows \(=0\)"):
        export_webdataset(cache, out, shard_rows=0)
    with pytest.raises(CacheError, match="is not sealed"):
        export_webdataset(write_cache(tmp_path / "unsealed", seal=False), out)
    similar = TokenSpec((STREAMS[0], StreamSpec("Top", (3, 1, 1), 5)), 3, SPEC.framing)
    with pytest.raises(CacheError, match="ignores case"):
        export_webdataset(write_cache(tmp_path / "similar", similar), out)
    assert not out.exists()
