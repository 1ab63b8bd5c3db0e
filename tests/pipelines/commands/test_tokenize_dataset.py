from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from nickname import Nickname, open_nickname
from numbered_videos import write_numbered

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_model
from tokenreel.data.sources.open import SOURCES, open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.writer import write_video
from tokenreel.errors import CacheError, ConfigError, DataError, UserError
from tokenreel.pipelines.commands import inspect as inspect_path
from tokenreel.pipelines.commands import repair, tokenize_dataset, verify
from tokenreel.pipelines.requests.artifacts import InspectRequest, VerifyRequest
from tokenreel.pipelines.requests.tokenizing import RepairRequest, TokenizeRequest
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import TOKENIZERS, VideoTokenizer, build_tokenizer
from tokenreel.tokenizers.hierarchical_vqvae import HierarchicalVQVAE

DATA = "tabletop:?videos=31&seed=3&frames=23&size=16"
SMALL = "tabletop:?videos=5&seed=3&frames=23&size=16"  # 20 rows in 1 shard
FRAMES = 5  # of a clip: 4 clips per video, 124 rows in 4 shards
TOKENIZER = {"type": "frame-vqvae", "hidden": 16, "residual": 8, "blocks": 1, "downsamplings": 2, "latent": 4}


def save_tokenizer(path: Path, seed: int, kind: str = "frame-vqvae") -> str:
    torch.manual_seed(seed)
    section = {**TOKENIZER, "type": kind, "quantizer": {"type": "fsq", "levels": [7, 5, 5, 5]}}
    spread_codes(build_tokenizer(section, FRAMES, Framing(16, 16))).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "a", seed=0)


@pytest.fixture(scope="module")
def reference(tokenizer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that one worker writes."""
    out = tmp_path_factory.mktemp("reference") / "cache"
    summary = tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=out))
    assert (summary["sealed"], summary["rows"], summary["shards"], summary["quarantined"]) == (True, 124, 4, 0)
    return out


def arrays(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and "c" in file.relative_to(path).parts)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def assert_same_cache(path: Path, reference: Path) -> None:
    assert arrays(path) == arrays(reference)
    assert TokenCache.open(path).cache_id == TokenCache.open(reference).cache_id


def test_rows_hold_the_tokens_of_their_clips(reference: Path, tokenizer: str) -> None:
    cache, source = TokenCache.open(reference), open_source(DATA)
    model = VideoTokenizer.from_pretrained(tokenizer)
    framing = Framing(16, 16)
    for row in (0, 50, 123):
        video, first = int(cache.column("source")[row]), int(cache.column("first_frame")[row])
        frames = source.read(video, np.arange(first, first + FRAMES), framing)
        with torch.inference_mode():
            expected = model.encode(to_model(frames[None]))["video"].numpy()
        np.testing.assert_array_equal(cache.read(np.array([row]))["video"], expected)
        assert cache.source_ids(np.array([row])) == [source.entries[video].id]
        assert cache.classes[cache.labels(np.array([row]))[0]] == source.entries[video].label
    assert len(cache.rows("train")) + len(cache.rows("validation")) == 124
    assert cache.code_fingerprint == model.code_fingerprint


@pytest.mark.parametrize("processes", [{"workers": 2}, {"decoders": 3}])
def test_any_number_of_processes_makes_the_same_bytes(
    reference: Path, tokenizer: str, tmp_path: Path, processes: dict[str, int]
) -> None:
    tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "x", **processes))
    assert_same_cache(tmp_path / "x", reference)


def test_probes_are_kept_beside_the_cache_for_the_next_run(tokenizer: str, tmp_path: Path) -> None:
    """And a dry run writes none."""
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_numbered(tmp_path / "videos" / f"{number}.mp4", 2 * FRAMES)

    def tokenized(**flags: Any) -> dict[str, bytes]:
        data, out = str(tmp_path / "videos"), tmp_path / "x"
        tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=data, out=out, allow_collapsed=True, **flags))
        return {file.name: file.read_bytes() for file in (tmp_path / "x.probes").glob("*")}

    assert not tokenized(dry_run=True)
    kept = tokenized()
    assert kept
    shutil.rmtree(tmp_path / "x")
    assert tokenized() == kept


def test_workers_know_a_source_and_a_tokenizer_that_were_registered_here(reference: Path, tmp_path: Path) -> None:
    with patch.object(SOURCES, "_added", []), patch.object(TOKENIZERS, "_members", dict(TOKENIZERS._members)):
        SOURCES.register("nickname", open_nickname, "nick:")
        TOKENIZERS.register("nickname", Nickname)
        tokenizer = save_tokenizer(tmp_path / "tokenizer", seed=0, kind="nickname")
        data = DATA.replace("tabletop:", "nick:")
        tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=data, out=tmp_path / "x", workers=2))
    assert arrays(tmp_path / "x") == arrays(reference)


def test_two_jobs_write_the_same_bytes_and_the_last_one_seals(reference: Path, tokenizer: str, tmp_path: Path) -> None:
    halves = [
        tokenize_dataset.run(
            TokenizeRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "x", shard_index=half, num_shards=2)
        )
        for half in (1, 0)
    ]
    assert [half["sealed"] for half in halves] == [False, True]
    assert [half["missing_shards"] for half in halves] == [2, 0]
    assert_same_cache(tmp_path / "x", reference)


def test_a_run_killed_after_its_first_commit_is_continued_to_the_same_bytes(
    reference: Path, tokenizer: str, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    flags = ["--tokenizer", tokenizer, "--data", DATA, "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "tokenreel", "tokenize-dataset", *flags, "--quiet"])
    while not list((out / "commits").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (out / "commits").glob("*.json")}
    assert not (out / "manifest.json").exists()
    summary = tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=out))
    assert summary["rows"] == 124 - 32 * len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same_cache(out, reference)
    assert not list(out.rglob("*.partial"))


def test_a_sealed_cache_is_not_changed(reference: Path, tokenizer: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("c/*")}
    summary = tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=reference))
    assert (summary["rows"], summary["sealed"]) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("c/*")} == before


def test_a_sealed_cache_without_commits_is_not_encoded_again(reference: Path, tokenizer: str, tmp_path: Path) -> None:
    """As it comes from the Hub. What is damaged in it is written again, and nothing else."""
    out = tmp_path / "x"
    shutil.copytree(reference, out)
    shutil.rmtree(out / "commits")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("c/*")}
    summary = tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=out))
    assert (summary["rows"], summary["sealed"], summary["missing_shards"]) == (0, True, 0)
    assert summary["cache_id"] == TokenCache.open(reference).cache_id
    assert {path: path.stat().st_mtime_ns for path in out.rglob("c/*")} == before
    shutil.rmtree(out / "commits")
    (out / "streams/video/c/2/0/0/0/0").unlink()
    assert tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=out))["rows"] == 32
    assert_same_cache(out, reference)
    for path in (out / "commits").iterdir():
        assert path.read_bytes() == (reference / "commits" / path.name).read_bytes()


def test_an_out_folder_with_other_content_is_refused(reference: Path, tokenizer: str, tmp_path: Path) -> None:
    other = save_tokenizer(tmp_path / "b", seed=1)
    with pytest.raises(CacheError, match="holds another token cache: its code_fingerprint is"):
        tokenize_dataset.run(TokenizeRequest(tokenizer=other, data=DATA, out=reference))
    with pytest.raises(DataError, match="its videos differ from those of the plan"):
        tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA.replace("31", "29"), out=reference))
    with pytest.raises(ConfigError, match=r"cache was started with clip_stride = None, not 2\. Give the same"):
        tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=reference, clip_stride=2))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match="already exists and is not a token cache"):
        tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "full"))
    with pytest.raises(CacheError, match="cannot be written: Not a directory"):
        tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "full" / "notes.txt" / "x"))
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_whole_videos_give_every_window_and_none_across_two_videos(
    reference: Path, tokenizer: str, tmp_path: Path
) -> None:
    tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "x", whole_videos=True))
    cache, clips = TokenCache.open(tmp_path / "x"), TokenCache.open(reference)
    assert (cache.row_count, len(cache.rows(stride=1)), len(cache.rows())) == (31 * 23, 31 * (23 - FRAMES + 1), 124)
    np.testing.assert_array_equal(cache.read(cache.rows())["video"], clips.read(clips.rows())["video"])
    windows = cache.rows("train", stride=1)
    ends = cache.column("source")[windows + FRAMES - 1]
    np.testing.assert_array_equal(cache.column("source")[windows], ends)
    assert cache.read(windows[:3], steps=2)["video"].shape == (3, 2, 4, 4, 1)


def test_a_dry_run_writes_nothing(tokenizer: str, tmp_path: Path) -> None:
    summary = tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "x", dry_run=True))
    assert (summary["rows"], summary["tokens"]) == (124, 124 * FRAMES * 16)
    assert not (tmp_path / "x").exists()


def test_a_limit_opens_only_its_videos_and_belongs_to_the_cache(tokenizer: str, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_clips(videos, good=4)
    (videos / "wrong.mp4").write_bytes(b"")  # the last of five, of which two are the first and the third
    flags: dict[str, Any] = {
        "tokenizer": tokenizer,
        "data": str(videos),
        "out": tmp_path / "x",
        "allow_collapsed": True,
    }
    limited = tokenize_dataset.run(TokenizeRequest(**flags, limit=2, strict=True))
    assert (limited["videos"], limited["quarantined"], limited["sealed"]) == (2, 0, True)
    assert limited["inventory"]["skipped"]["over-limit"]["count"] == 3
    assert tokenize_dataset.run(TokenizeRequest(**flags, limit=2))["cache_id"] == limited["cache_id"]
    for limit in (3, None):
        with pytest.raises(
            ConfigError, match=r"started without 3 over --limit, not with(out 2 over --limit| all videos)\."
        ):
            tokenize_dataset.run(TokenizeRequest(**flags, limit=limit))


def test_too_many_bad_videos_stop_the_job_and_few_are_quarantined(tokenizer: str, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_clips(videos, good=4)
    write_video(videos / "short.mp4", np.zeros((FRAMES - 1, 8, 8, 3), np.uint8), frame_rate=10)
    (videos / "broken.mp4").write_bytes(b"")
    flags: dict[str, Any] = {"tokenizer": tokenizer, "data": str(videos)}
    with pytest.raises(DataError, match=r"1 of 6 videos cannot be read, .* broken\.mp4: unreadable"):
        tokenize_dataset.run(TokenizeRequest(**flags, out=tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    summary = tokenize_dataset.run(TokenizeRequest(**flags, out=tmp_path / "x", max_bad_fraction=0.5))
    assert (summary["quarantined"], summary["sealed"], summary["videos"]) == (1, True, 4)
    assert summary["quarantined_videos"] == ["broken.mp4: unreadable (the file is empty)"]
    assert summary["videos_too_short"] == ["short.mp4"]
    assert inspect_path.run(InspectRequest(path=tmp_path / "x"))["excluded"] == [
        "broken.mp4: unreadable",
        "short.mp4: too-short",
    ]
    without = tokenize_dataset.run(TokenizeRequest(**flags, out=tmp_path / "y", exclude=["broken.mp4"]))
    assert (without["quarantined"], without["sealed"]) == (0, True)


def write_clips(folder: Path, good: int) -> None:
    for i in range(good):
        frames = np.random.default_rng(i).integers(0, 255, (2 * FRAMES, 16, 16, 3), dtype=np.uint8)
        write_video(folder / f"good{i}.mp4", frames, 10.0)


HARMS = {
    "flip": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"\x55" + path.read_bytes()[-8:]),
    "truncate": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "delete": lambda path: path.unlink(),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(
    "name", ["streams/video/c/2/0/0/0/0", "label/c/1", "zarr.json", "valid/zarr.json", "manifest.json"]
)
def test_verify_names_the_damage_and_repair_undoes_it(reference: Path, tmp_path: Path, name: str, harm: str) -> None:
    shutil.copytree(reference, tmp_path / "x")
    assert verify.run(VerifyRequest(path=tmp_path / "x"))["intact"]
    HARMS[harm](tmp_path / "x" / name)
    rows = {"streams": "64 to 95", "label": "32 to 63"}.get(name.split("/")[0], "")
    with pytest.raises(UserError, match=f"{name}.*{rows}"):
        verify.run(VerifyRequest(path=tmp_path / "x"))
    repair.run(RepairRequest(path=tmp_path / "x"))
    assert verify.run(VerifyRequest(path=tmp_path / "x"))["intact"]
    assert_same_cache(tmp_path / "x", reference)
    assert (tmp_path / "x" / name).read_bytes() == (reference / name).read_bytes()


def test_repair_refuses_another_tokenizer(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "x")
    (tmp_path / "x/streams/video/c/2/0/0/0/0").unlink()
    with pytest.raises(CacheError, match="belong to different tokenizers"):
        repair.run(RepairRequest(path=tmp_path / "x", tokenizer=save_tokenizer(tmp_path / "b", seed=1)))


def test_bf16_reports_the_fraction_of_tokens_that_it_changes(tokenizer: str, tmp_path: Path) -> None:
    summary = tokenize_dataset.run(
        TokenizeRequest(tokenizer=tokenizer, data=SMALL, out=tmp_path / "x", precision="bf16")
    )
    tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=SMALL, out=tmp_path / "y"))
    caches = [TokenCache.open(tmp_path / name) for name in "xy"]
    halves, full = (cache.read(cache.rows())["video"] for cache in caches)
    assert summary["tokens_changed_by_bf16"] == pytest.approx((halves != full).mean())
    assert caches[0].cache_id != caches[1].cache_id


def test_imported_tokens_need_no_tokenizer(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 97, (13, 3, 2, 5), dtype=np.int32)
    np.save(tmp_path / "codes.npy", codes)
    summary = tokenize_dataset.run(
        TokenizeRequest(tokenizer=None, data=str(tmp_path / "codes.npy"), out=tmp_path / "x")
    )
    assert verify.run(VerifyRequest(path=tmp_path / "x"))["cache_id"] == summary["cache_id"]
    np.testing.assert_array_equal(TokenCache.open(tmp_path / "x").read(range(13))["video"][..., 0], codes)
    (tmp_path / "x/valid/c/0").unlink()
    with pytest.raises(CacheError, match="which cannot be made again"):
        repair.run(RepairRequest(path=tmp_path / "x"))
    with pytest.raises(DataError, match=r"not an \.npy file of tokens"):
        tokenize_dataset.run(TokenizeRequest(tokenizer=None, data=DATA, out=tmp_path / "y"))


def test_what_imported_tokens_do_not_state_is_an_option(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "codes.npy"
    np.save(path, np.random.default_rng(0).integers(0, 7, (13, 3, 2, 5)).clip(max=4))

    def imported(options: str, out: str) -> TokenCache:
        tokenize_dataset.run(TokenizeRequest(tokenizer=None, data=f"{path}{options}", out=tmp_path / out))
        return TokenCache.open(tmp_path / out)

    (stream,) = imported("", "guessed").spec.streams
    assert stream.codebook_size == 5
    assert "codebook_size: 5, as the largest token is 4; state it by" in caplog.text
    spec = imported("?codebook_size=7&stride=2&fps=11&height=16&width=40", "stated").spec
    assert (spec.streams[0].codebook_size, spec.streams[0].stride, spec.frames) == (7, 2, 6)
    assert spec.framing == Framing(16, 40, frame_rate=11)
    for options, problem in (
        ("?codebook_size=4", r"codebook_size \(=4\) must be above the largest token, 4"),
        ("?stride=0", r"stride \(=0\) must be a whole number"),
        ("?codes=7", "option 'codes' is not known"),
    ):
        with pytest.raises(DataError, match=problem):
            imported(options, "refused")


def test_videos_are_planned_by_all_decoding_processes(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the packets of a million files in one process would take longer than tokenizing them."""
    started: list[int] = []

    class Planning(DecodePool):
        def __init__(self, location: str, workers: int, probes: Path | None = None) -> None:
            started.append(workers)
            super().__init__(location, 0, probes)

    monkeypatch.setattr(tokenize_dataset, "DecodePool", Planning)
    flags: dict[str, Any] = {
        "workers": 2,
        "decoders": 3,
        "num_shards": 1000,
        "shard_index": 999,
    }  # a part without shards
    tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "cache", **flags))
    assert started == [6]


def test_labels_splits_and_groups_of_imported_tokens_are_files_beside_them(tmp_path: Path) -> None:
    rows = 13
    np.save(tmp_path / "codes.npy", np.arange(rows * 3 * 2 * 5).reshape(rows, 3, 2, 5) % 7)
    episodes = np.arange(rows) // 3
    np.save(tmp_path / "episodes.npy", episodes)
    np.save(tmp_path / "labels.npy", np.array([b"run", b"jump"])[np.arange(rows) % 2])
    splits = np.array(["train", "val", "training", "test", "train"])[episodes]
    np.save(tmp_path / "splits.npy", splits)

    def imported(options: str) -> TokenCache:
        out = tmp_path / f"cache-{len(list(tmp_path.iterdir()))}"
        data = f"{tmp_path / 'codes.npy'}?codebook_size=7&{options}"
        tokenize_dataset.run(TokenizeRequest(tokenizer=None, data=data, out=out))
        return TokenCache.open(out)

    cache = imported("labels=labels.npy&splits=splits.npy&groups=episodes.npy")
    assert (cache.classes, cache.labels(np.arange(4)).tolist()) == (("jump", "run"), [1, 0, 1, 0])
    assert {name: cache.rows(name).tolist() for name in ("train", "validation", "test")} == {
        "train": [0, 1, 2, 6, 7, 8, 12],
        "validation": [3, 4, 5],
        "test": [9, 10, 11],
    }
    cache = imported("groups=episodes.npy")
    held_out = cache.rows("validation").tolist()
    assert 0 < len(held_out) < rows
    assert set(episodes[held_out]).isdisjoint(episodes[cache.rows("train")])
    np.save(tmp_path / "splits.npy", np.where(np.arange(rows) == 1, "val", splits))
    np.save(tmp_path / "short.npy", episodes[1:])
    for options, problem in (
        ("splits=splits.npy&groups=episodes.npy", r"row-00000000 and row-00000001 belong together \(group '0'\)"),
        (
            "labels=short.npy",
            r"short\.npy: expected 13 integers or names, one for each row of tokens, got int64 \[12\]",
        ),
        ("splits=labels.npy", r"row-00000000: split 'run' is not known"),
        ("labels=none.npy", r"none\.npy: no such file"),
    ):
        with pytest.raises(DataError, match=problem):
            imported(options)


@pytest.mark.parametrize(
    ("options", "framing"),
    [
        ("", "not stated"),
        ("fps=10", {"frame_rate": 10.0}),
        ("height=16&width=40", {"height": 16, "width": 40}),
    ],
)
def test_inspect_shows_no_framing_of_imported_tokens_that_nobody_stated(
    tmp_path: Path, options: str, framing: Any
) -> None:
    np.save(tmp_path / "codes.npy", np.arange(3 * 2 * 5 * 7).reshape(3, 2, 5, 7) % 11)
    data = f"{tmp_path / 'codes.npy'}?codebook_size=11&{options}".rstrip("&")
    tokenize_dataset.run(TokenizeRequest(tokenizer=None, data=data, out=tmp_path / "cache"))
    assert inspect_path.run(InspectRequest(path=tmp_path / "cache"))["framing"] == framing


def test_inspect_reports_the_content_of_a_cache(reference: Path) -> None:
    summary = json.loads(json.dumps(inspect_path.run(InspectRequest(path=reference))))
    assert (summary["rows"], summary["valid_rows"], summary["sealed"]) == (124, 124, True)
    assert sum(summary["splits"].values()) == sum(summary["classes"].values()) == 124


def save_two_levels(path: Path, collapsed: bool) -> str:
    section = {"type": "hierarchical-vqvae", "hidden": 8, "residual": 5, "blocks": 1, "latent": 6}
    torch.manual_seed(3)
    model = spread_codes(
        build_tokenizer({**section, "quantizer": {"type": "vq", "codebook_size": 13}}, 8, Framing(16, 16))
    )
    assert isinstance(model, HierarchicalVQVAE)
    model(torch.rand(5, 3, 8, 16, 16) * 2 - 1)  # initialises the codebooks
    if collapsed:
        model.top_quantizer.codebook.zero_()
    model.save_pretrained(path)
    return str(path)


def test_a_cache_holds_both_levels_and_the_given_frames(tmp_path: Path) -> None:
    tokenizer = save_two_levels(tmp_path / "a", collapsed=False)
    assert tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=SMALL, out=tmp_path / "x"))["sealed"]
    cache = TokenCache.open(tmp_path / "x")
    codes = cache.read(cache.rows())
    shapes = {name: array.shape for name, array in codes.items()}
    top, bottom = (2, 2, 2, 1), (4, 4, 4, 1)
    given = {"top_given": (10, 1, *top[1:]), "bottom_given": (10, 2, *bottom[1:])}
    assert shapes == {"top": (10, *top), "bottom": (10, *bottom), **given}


def test_a_collapsed_level_is_sealed_only_if_allowed(tmp_path: Path) -> None:
    """The refusal does not lose any shard."""
    tokenizer, out = save_two_levels(tmp_path / "a", collapsed=True), tmp_path / "x"
    with pytest.raises(DataError, match=r"not sealed: its level 'top' .* 7\.7% of its 13 codes occur, perplexity 1\.0"):
        tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=SMALL, out=out))
    assert not (out / "manifest.json").exists()
    summary = tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=SMALL, out=out, allow_collapsed=True))
    assert (summary["sealed"], summary["rows"], summary["missing_shards"]) == (True, 0, 0)
