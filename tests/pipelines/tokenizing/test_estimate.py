"""`tokenize-dataset --dry-run`: the arithmetic of its estimate, and what it tries."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tokenreel.data.cache.fill import FilledShard
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import Plan
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import Framing
from tokenreel.pipelines.commands import tokenize_dataset
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.tokenizing import estimate
from tokenreel.pipelines.tokenizing.estimate import Machine, Trial, startup_seconds, work_seconds
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import build_tokenizer

FRAMES = 5  # of a clip
DATA = "tabletop:?videos=31&frames=23&size=16"  # 4 clips a video
TRIAL = Trial(
    rows=10,
    seconds=20.0,
    encode_seconds=5.0,
    cpu_seconds=30.0,
    import_seconds=1.5,
    startup_seconds=3.0,
    startup_cpu_seconds=2.0,
    memory_bytes=7,
)


@pytest.mark.parametrize(
    ("workers", "cores", "encodes_on_cores", "seconds"),
    [
        (1, 8, True, 200.0),  # one worker: as it was tried, 2 s a clip
        (4, 8, True, 50.0),  # four times as fast
        (4, 2, True, 150.0),  # 3 s of processor time a clip on 2 cores
        (1, 1, True, 300.0),
        (8, 64, False, 50.0),  # all encode on one device: 0.5 s a clip
        (2, 64, False, 100.0),
    ],
)
def test_work_is_as_fast_as_workers_cores_and_device_allow(
    workers: int, cores: int, encodes_on_cores: bool, seconds: float
) -> None:
    assert work_seconds(TRIAL, 100, workers, Machine(cores, encodes_on_cores)) == seconds


def test_workers_that_start_together_share_the_cores() -> None:
    assert startup_seconds(TRIAL, 2, Machine(8, True)) == 3.0
    assert startup_seconds(TRIAL, 7, Machine(2, True)) == 7.0


class Used:
    """What the processes of a trial have used in all."""

    cpu_seconds, memory_bytes = 13.0, 7


def test_a_trial_tells_what_clips_take_from_what_the_start_takes() -> None:
    """The second of two shards took 0.5 s for each clip; all else of the first one, which ends 20 s after the start of
    the worker, is the start of the decoder and the warm-up of the model.
    """
    first = FilledShard(0, rows=8, invalid=0, first_invalid="", decode_wait=3.0, encode=6.0, seconds=9.5)
    second = FilledShard(1, rows=4, invalid=0, first_invalid="", decode_wait=0.25, encode=1.5, seconds=2.0)
    trial = estimate._trial([first, second], 20.0, 11.0, Used())  # type: ignore[arg-type]
    assert (trial.rows, trial.seconds, trial.encode_seconds, trial.cpu_seconds) == (4, 2.0, 1.5, 2.0)
    assert trial.import_seconds == 20.0 - 9.5
    assert trial.startup_seconds == 20.0 - 8 * 0.5
    assert trial.startup_cpu_seconds == 11.0 - 8 * 0.5
    alone = estimate._trial([first], 20.0, 11.0, Used())  # type: ignore[arg-type]
    assert alone.startup_seconds + work_seconds(alone, 8, 1, Machine(64, True)) == 20.0


def test_the_start_of_the_command_and_of_its_workers_counts(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker is the command itself; several start once the command has."""
    slow = dataclasses.replace(TRIAL, seconds=1e-9, cpu_seconds=1e-9, import_seconds=1000.0, startup_seconds=3000.0)
    monkeypatch.setattr(estimate, "try_tokenizing", lambda *_: slow)
    flags: dict[str, Any] = {"tokenizer": tokenizer, "data": DATA, "out": tmp_path / "x", "dry_run": True}
    for workers, seconds in ((1, 3000), (2, 4000)):
        found = tokenize_dataset.run(TokenizeRequest(**flags, workers=workers))["seconds"]
        assert found == pytest.approx(seconds, abs=100)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokenizer") / "a"
    torch.manual_seed(3)
    section = {"type": "frame-vqvae", "hidden": 8, "residual": 4, "blocks": 1, "downsamplings": 2, "latent": 4}
    section["quantizer"] = {"type": "fsq", "levels": [7, 5, 5, 5]}
    spread_codes(build_tokenizer(section, FRAMES, Framing(16, 16))).save_pretrained(path)
    return str(path)


def test_an_estimate_is_of_the_shards_of_this_call(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a trial that is put in its place: 2 s a clip."""
    monkeypatch.setattr(estimate, "try_tokenizing", lambda *_: TRIAL)
    flags: dict[str, Any] = {"tokenizer": tokenizer, "data": DATA, "out": tmp_path / "x", "dry_run": True}
    whole = tokenize_dataset.run(TokenizeRequest(**flags))
    parts = [tokenize_dataset.run(TokenizeRequest(**flags, shard_index=part, num_shards=3)) for part in range(3)]
    assert (whole["rows"], whole["tokens"]) == (124, 124 * FRAMES * 16)
    for name in ("rows", "tokens", "shards"):
        assert sum(part[name] for part in parts) == whole[name]
    assert 248 + 3 <= whole["seconds"] < 300
    assert whole["hours"] == pytest.approx(whole["seconds"] / 3600, abs=6e-4)
    assert list(tmp_path.iterdir()) == []


def test_what_is_tried_is_what_a_run_does(tokenizer: str, tmp_path: Path) -> None:
    """A dry run and a run of the same: equal bytes on disk, and an estimate of memory within a factor of 1.5."""
    flags: dict[str, Any] = {"tokenizer": tokenizer, "data": DATA, "out": tmp_path / "x"}
    expected = tokenize_dataset.run(TokenizeRequest(**flags, dry_run=True))
    assert not (tmp_path / "x").exists()
    assert 0 < expected["clips_tried"] <= expected["rows"]
    assert expected["clips_per_second"] > 0
    assert 0.15 < expected["memory_gb_per_worker"] < 2  # torch alone takes 0.2 GB
    tokenize_dataset.run(TokenizeRequest(**flags))
    arrays = [file for file in (tmp_path / "x").rglob("*") if file.is_file() and "c" in file.parts]
    assert expected["disk_gb"] * 1e9 == pytest.approx(sum(file.stat().st_size for file in arrays), rel=0.05)


def test_a_trial_ends_the_decoders_of_its_worker_too() -> None:
    """Which are busy, and would write beside the trial's cache when its folder is already removed."""
    decoder = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {'input()'!r}]).pid, flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{decoder}; import time; time.sleep(60)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    held_open = os.dup(process.stdin.fileno())  # the decoder's, which so does not end by itself
    child = psutil.Process(int(process.stdout.readline()))
    estimate._end_with_decoders(process)
    os.close(held_open)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_the_trial_is_of_clips_of_the_plan_spread_over_it() -> None:
    with DecodePool(DATA, workers=0) as pool:
        plan = plan_of(pool, DataConfig(Framing(16, 16), FRAMES))
    part = estimate._spread(plan, 13)
    assert [video.id for video in part.videos] == [video.id for video in plan.videos]
    assert 13 <= len(part) < 13 + estimate.VIDEOS
    used = np.unique(part.video)
    assert len(used) == estimate.VIDEOS
    assert (used[0], used[-1]) == (0, 30)
    assert _clips(part) <= _clips(plan)


def _clips(plan: Plan) -> set[tuple[int, ...]]:
    return {(int(plan.video[row]), *plan.indices(row).tolist()) for row in plan.rows()}
