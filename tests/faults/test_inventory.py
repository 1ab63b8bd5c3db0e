"""What the commands say of the videos that they take, skip and hold out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.data.video.writer import write_video
from tokenreel.errors import ConfigError, DataError
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.commands import inspect as inspect_path
from tokenreel.pipelines.commands import tokenize_dataset, train_prior, train_tokenizer
from tokenreel.pipelines.requests.artifacts import InspectRequest
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest, TrainTokenizerRequest
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import build_tokenizer

FRAMES, SIZE = 5, 16
TOKENIZER = {"type": "frame-vqvae", "hidden": 8, "residual": 4, "blocks": 1, "downsamplings": 2, "latent": 4}
TRAIN, TEST = 7, 3  # videos; a tenth of seven, and one at least, is held out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/, as BAIR and Kinetics have them, and what is not used beside them."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in [f"train/{i}" for i in range(TRAIN)] + [f"test/{i}" for i in range(TEST)] + ["extra/a", "train/short"]:
        (folder / name).parent.mkdir(exist_ok=True)
        frames = 3 if name == "train/short" else FRAMES
        write_video(folder / f"{name}.mp4", random.integers(0, 256, (frames, SIZE, SIZE, 3), dtype=np.uint8), 10.0)
    (folder / "train/broken.mp4").write_bytes(bytes(100))
    (folder / "notes.txt").write_text("words")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    section = {**TOKENIZER, "quantizer": {"type": "fsq", "levels": [5, 5]}}
    path = tmp_path_factory.mktemp("tokenizer") / "a"
    spread_codes(build_tokenizer(section, FRAMES, Framing(SIZE, SIZE))).save_pretrained(path)
    return str(path)


SKIPPED = {"outside-splits": "extra/a.mp4", "unused .txt": "notes.txt"}
EXCLUDED = {"too-short": "train/short.mp4", "unreadable": "train/broken.mp4"}


def assert_inventory(inventory: dict[str, Any], taken: int, skipped: dict[str, str]) -> None:
    assert inventory["skipped"] == {reason: {"count": 1, "examples": [name]} for reason, name in skipped.items()}
    assert (inventory["found"], inventory["taken"]) == (taken + len(skipped), taken)


def test_tokenizing_says_what_it_takes_and_keeps_it_beside_the_tokens(
    data: Path, tokenizer: str, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"tokenizer": tokenizer, "data": str(data), "max_bad_fraction": 0.2}
    summary = tokenize_dataset.run(TokenizeRequest(out=tmp_path / "cache", **flags))
    assert_inventory(summary["inventory"], TRAIN + TEST, SKIPPED | EXCLUDED)
    assert summary["splits"] == {
        "train": {"videos": TRAIN - 1, "clips": TRAIN - 1},
        "validation": {"videos": 1, "clips": 1},
        "test": {"videos": TEST, "clips": TEST},
    }
    assert "1 video, held out of train" in summary["validation"]
    assert TokenCache.open(tmp_path / "cache").origin["inventory"] == summary["inventory"]
    dry = tokenize_dataset.run(TokenizeRequest(out=tmp_path / "none", dry_run=True, **flags))
    assert {dry[key] == summary[key] for key in ("inventory", "splits", "validation")} == {True}
    (data / "more.txt").write_text("not part of the identity")
    again = tokenize_dataset.run(TokenizeRequest(out=tmp_path / "again", **flags))
    (data / "more.txt").unlink()
    assert again["inventory"]["skipped"]["unused .txt"]["count"] == 2
    assert again["cache_id"] == summary["cache_id"]
    with pytest.raises(DataError, match=r"--strict, and 4 .*: 1 outside-splits \(extra/a\.mp4\); 1 too-short"):
        tokenize_dataset.run(TokenizeRequest(out=tmp_path / "strict", strict=True, **flags))
    assert not (tmp_path / "strict").exists()


def test_strict_allows_what_is_excluded_by_request(data: Path, tokenizer: str, tmp_path: Path) -> None:
    excluded = ("train/short.mp4", "train/broken.mp4")
    for name in ("train", "test"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(data / name, target_is_directory=True)
    request = TokenizeRequest(
        tokenizer=tokenizer,
        data=str(tmp_path / "data"),
        out=tmp_path / "c",
        strict=True,
        dry_run=True,
        exclude=excluded,
    )
    assert tokenize_dataset.run(request)["inventory"]["skipped"]["by-request"]["count"] == 2


def test_data_are_inspected_without_opening_a_video(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["inspect", "--data", str(data), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert_inventory(summary["inventory"], TRAIN + TEST + len(EXCLUDED), SKIPPED)
    assert summary["splits"] == {"test": TEST, "train": TRAIN + len(EXCLUDED)}
    with pytest.raises(DataError, match=r"--strict, and 2 of what it holds are skipped"):
        inspect_path.run(InspectRequest(data=str(data), strict=True))


@pytest.mark.parametrize(
    "flags",
    [{}, {"path": "a", "data": "b"}, {"data": "b", "pictures": "c"}, {"path": "a", "strict": True}],
)
def test_what_is_inspected_is_one_thing(flags: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        InspectRequest(**flags)


@pytest.mark.parametrize("fraction", [0, 0.2])
def test_training_says_whether_anything_is_scored(
    data: Path, tmp_path: Path, fraction: float, caplog: pytest.LogCaptureFixture
) -> None:
    framing = f"{{height: {SIZE}, width: {SIZE}}}"
    settings = (
        f"data={{frames: {FRAMES}, framing: {framing}, validation: {fraction}}}",
        f"tokenizer={{{', '.join(f'{key}: {value}' for key, value in TOKENIZER.items())}}}",
        "tokenizer.quantizer={type: fsq, levels: [5, 5]}",
        "training={batch: 2, learning_rate: 0.003}",
    )
    flags: dict[str, Any] = {"data": str(data), "assignments": settings, "steps": 1, "device": "cpu", "workers": 0}
    with caplog.at_level(logging.WARNING):
        summary = train_tokenizer.run(TrainTokenizerRequest(out=tmp_path / "run", **flags))
    assert_inventory(summary["inventory"], TRAIN + TEST, SKIPPED | EXCLUDED)
    assert ("psnr" in summary) == (fraction > 0)
    assert ("validation: none: nothing will be scored" in caplog.text) == (fraction == 0)
    assert summary["validation"].startswith("none" if fraction == 0 else "1 video, held out of train")
    with pytest.raises(DataError, match="--strict"):
        train_tokenizer.run(TrainTokenizerRequest(out=tmp_path / "strict", strict=True, **flags))


def test_a_prior_without_validation_rows_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = TokenSpec((StreamSpec("video", (3, 2, 2), codebook_size=7),), 3, Framing(8, 8))
    tokens = np.random.default_rng(0).integers(0, 7, (6, 3, 2, 2, 1))
    rows = [{"id": str(row), "split": "train"} for row in range(len(tokens))]
    write_token_file(tmp_path / "tokens", spec, {"video": tokens}, "0" * 64, rows)
    settings = ("prior={type: gpt, depth: 1, width: 16, heads: 2}", "training={batch: 2, validation_given_frames: 0}")
    request = TrainPriorRequest(
        cache=tmp_path / "tokens", out=tmp_path / "p", assignments=settings, steps=1, device="cpu", dry_run=True
    )
    with caplog.at_level(logging.WARNING):
        train_prior.run(request)
    assert "has no validation rows, so nothing will be scored" in caplog.text
