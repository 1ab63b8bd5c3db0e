"""`tokenreel export` on a token file; the content of shards is tested with `export_webdataset`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from webdataset_samples import read_samples

from tokenreel.data.cache.export import SHARD_ROWS
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.requests.tokenizing import ExportRequest

SPEC = TokenSpec((StreamSpec("video", (3, 5, 7), 509),), 3, Framing(11, 13))
ROWS = 23


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    tokens = np.random.default_rng(0).integers(0, 509, (ROWS, *SPEC.streams[0].shape))
    sources = [{"id": f"s{i}", "split": "validation" if i % 5 == 0 else "train"} for i in range(ROWS)]
    write_token_file(tmp_path / "tokens", SPEC, {"video": tokens}, "fingerprint", sources)
    return tmp_path / "tokens"


def export(*flags: str | Path) -> int:
    return run_command(["export", *map(str, flags)])


def test_a_split_is_exported_in_shards(token_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    flags = ("--format", "webdataset", "--split", "train", "--shard-rows", "7", "--json")
    assert export("--cache", token_file, "--out", out, *flags) == 0
    cache = TokenCache.open(token_file)
    samples = [sample for shard in sorted(out.glob("*.tar")) for _, sample in read_samples(shard)]
    tokens = np.stack([np.load(io.BytesIO(sample["video.npy"]), allow_pickle=False) for sample in samples])
    np.testing.assert_array_equal(tokens, cache.read(cache.rows("train"))["video"])
    summary = json.loads(capsys.readouterr().out)
    assert summary.pop("megabytes") > 0
    assert summary == {
        "out": str(out), "format": "webdataset", "cache_id": cache.cache_id, "samples": 18, "invalid_rows": 0,
        "shards": 3,
    }  # fmt: skip


def test_existing_shards_are_not_overwritten(
    token_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--cache", token_file, "--out", tmp_path / "out", "--quiet") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(before) == 2
    assert export("--cache", token_file, "--out", tmp_path / "out") == 1
    assert "already exists and is not empty" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_default_of_the_option_is_that_of_the_function(token_file: Path, tmp_path: Path) -> None:
    assert ExportRequest(cache=token_file, out=tmp_path / "out").shard_rows == SHARD_ROWS
