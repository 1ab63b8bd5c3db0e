"""Documents that end in a hole, which takes no space and is of any size: refused without reading it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenreel.benchmarks.reliability.hostile_files import hole
from tokenreel.config import load_yaml
from tokenreel.data.cache.files import MAX_JSON_BYTES, read_json
from tokenreel.errors import CacheError, CheckpointError, ConfigError
from tokenreel.pipelines.training.checkpoint import read_checkpoint
from tokenreel.pipelines.training.run_folder import RunFolder, RunIdentity, read_metrics

HERE = RunIdentity("train-prior", {}, "plan-5", "videos")
MAX_BYTES = 100 << 20  # in memory


@pytest.mark.parametrize(
    ("name", "use", "error", "message"),
    [
        ("a.yaml", load_yaml, ConfigError, r"a\.yaml is not YAML: it has more than 16,777,216 bytes"),
        ("manifest.json", lambda path: read_checkpoint(path.parent), CheckpointError, r"manifest\.json cannot be read"),
        ("run.json", lambda path: RunFolder.open(path.parent, HERE), CheckpointError, r"run\.json is damaged"),
    ],
)
def test_a_document_has_a_size(
    tmp_path: Path, name: str, use: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    hole(tmp_path / name, b"{")
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            use(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


def test_a_document_of_a_cache_may_be_large_and_has_no_holes(tmp_path: Path) -> None:
    hole(tmp_path / "plan.json", b"{", MAX_JSON_BYTES)
    tracemalloc.start()
    try:
        with pytest.raises(CacheError, match=r"plan\.json is damaged: it contains NUL bytes"):
            read_json(tmp_path / "plan.json")
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


def test_metrics_before_a_hole_are_read(tmp_path: Path) -> None:
    hole(tmp_path / "metrics.jsonl", b'{"step": 1}\n', 200 << 20)
    tracemalloc.start()
    try:
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ['"\\x1b": 1\n\x1b: 2', "a: " + "9" * 5000, "[" * 5000, "a: !!python/name:os.system"])
def test_yaml_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml is not YAML: [^\n]+$"):
        load_yaml(tmp_path / "a.yaml")
