from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tokenreel.data.cache.fill import ShardFiller
from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.cache.manifest import InvalidRow
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.decoding.pool import ReadResult
from tokenreel.data.plan import Plan, PlannedVideo
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.sources.base import ReadRequest
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import CacheError

T, H, W, K = 3, 5, 7, 251
SPEC = TokenSpec((StreamSpec("video", (T, H, W), K),), T, Framing(H, W))
BROKEN_FROM = 11  # frame of video 1 from which decoding fails


class FakePool:
    """Returns frames whose pixels encode the video and the frame number; counts requests."""

    source = None  # no plan here states a content
    workers = 0

    def __init__(self) -> None:
        self.requests: list[ReadRequest] = []

    def read(self, requests: Iterable[ReadRequest], ahead: int) -> Iterator[ReadResult]:
        for request in requests:
            self.requests.append(request)
            if request.video == 1 and request.indices[-1] >= BROKEN_FROM:
                yield ReadResult(request, None, DecodeFailure("truncated", "cut off"))
            else:
                values = (request.video * 50 + request.indices).astype(np.uint8)
                yield ReadResult(request, np.tile(values[:, None, None, None], (1, H, W, 3)), None)


def encode(frames: np.ndarray) -> dict[str, np.ndarray]:
    return {"video": frames[..., :1].astype(np.int64)}


def make_plan(clip_stride: int | None = None) -> Plan:
    videos = (
        PlannedVideo("a", source_frames=np.arange(13)),
        PlannedVideo("b", source_frames=np.arange(17)),
        PlannedVideo("c", reason="unreadable", detail="/somewhere"),
        PlannedVideo("d", source_frames=np.array([0, 0, 2, 4, 4, 6, 8])),
    )
    return Plan(DataConfig(SPEC.framing, T, clip_stride), (), videos)


def fill(path: Path, plan: Plan, batch: int = 2, shards: Callable[[list[int]], list[int]] = list) -> FakePool:
    header = CacheHeader("clips", SPEC, T, len(plan), 4, "fingerprint", plan.sha256)
    writer, pool = CacheWriter.create(path, header, plan.to_json(), {}), FakePool()
    filler = ShardFiller(writer, plan, pool, encode, batch)  # type: ignore[arg-type]
    assert {filled.shard for filled in filler.fill(shards(writer.pending()))} == set(range(header.shards))
    assert writer.seal()
    return pool


@pytest.mark.parametrize("clip_stride", [None, 1, 2])
def test_each_row_holds_its_own_frames_and_failed_ones_are_invalid(tmp_path: Path, clip_stride: int | None) -> None:
    """Frame by frame against the plan, with overlapping clips and repeated frames; failures affect their rows only."""
    plan = make_plan(clip_stride)
    fill(tmp_path / "x", plan)
    cache = TokenCache.open(tmp_path / "x")
    broken = [row for row in range(len(plan)) if plan.video[row] == 1 and plan.indices(row)[-1] >= BROKEN_FROM]
    assert broken
    np.testing.assert_array_equal(np.setdiff1d(np.arange(len(plan)), cache.rows()), broken)
    codes = cache.read(cache.rows())["video"]
    for row, clip in zip(cache.rows().tolist(), codes, strict=True):
        expected = plan.video[row] * 50 + plan.indices(row)
        np.testing.assert_array_equal(clip, np.broadcast_to(expected[:, None, None, None], clip.shape))
    reasons = {(bad.row, bad.reason) for bad in CacheWriter(tmp_path / "x", cache.header).invalid_rows()}
    assert reasons == {(row, "truncated") for row in broken}
    with pytest.raises(CacheError, match=f"row {broken[0]} of .* did not decode"):
        cache.read(np.array(broken))


@pytest.mark.parametrize("batch", [1, 4])
def test_the_order_of_the_work_does_not_change_a_byte(tmp_path: Path, batch: int) -> None:
    plan = make_plan(clip_stride=2)
    fill(tmp_path / "x", plan)
    fill(tmp_path / "y", plan, batch, lambda shards: shards[::-1])
    assert TokenCache.open(tmp_path / "x").cache_id == TokenCache.open(tmp_path / "y").cache_id


def test_clips_of_one_video_are_decoded_together(tmp_path: Path) -> None:
    """One request for each video of a shard, as decoding from the start of the video for each clip would be slow."""
    plan = make_plan(clip_stride=1)
    pool = fill(tmp_path / "x", plan)
    merged = {(row // 4, int(plan.video[row])) for row in range(len(plan))}
    first_pass = pool.requests[: len(merged)]
    assert [request.video for request in first_pass] == [video for _, video in sorted(merged)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes: codes + K, "below 251"),
        (lambda codes: codes - 1, "from -1"),
        (lambda codes: codes[:, 1:], "made"),
    ],
)
def test_invalid_tokens_stop_the_job(tmp_path: Path, change: Callable[..., np.ndarray], message: str) -> None:
    plan = make_plan()
    header = CacheHeader("clips", SPEC, T, len(plan), 4, "fingerprint", plan.sha256)
    writer = CacheWriter.create(tmp_path / "x", header, plan.to_json(), {})
    wrong = ShardFiller(writer, plan, FakePool(), lambda frames: {"video": change(encode(frames)["video"])}, 2)  # type: ignore[arg-type]
    with pytest.raises(CacheError, match=message):
        list(wrong.fill(writer.pending()))
    assert writer.pending() == list(range(header.shards))


def test_two_writers_of_one_shard_agree_and_a_mixture_is_written_again(tmp_path: Path) -> None:
    """A file that differs from its commit at sealing invalidates the commit; another run writes it again."""
    plan = make_plan()
    path = tmp_path / "x"
    fill(path, plan)
    cache = TokenCache.open(path)
    writer, shard = CacheWriter(path, cache.header), path / "streams/video/c/1/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    assert writer.seal() is None
    assert writer.pending() == [1]
    fill_again = ShardFiller(writer, plan, FakePool(), encode, 2)  # type: ignore[arg-type]
    assert [filled.shard for filled in fill_again.fill(writer.pending())] == [1]
    assert writer.seal() == cache.cache_id


def test_an_incomplete_cache_is_refused_or_its_committed_rows_are_read(tmp_path: Path) -> None:
    plan = make_plan()
    header = CacheHeader("clips", SPEC, T, len(plan), 4, "fingerprint", plan.sha256)
    writer = CacheWriter.create(tmp_path / "x", header, plan.to_json(), {})
    list(ShardFiller(writer, plan, FakePool(), encode, 2).fill([0]))  # type: ignore[arg-type]
    assert writer.seal() is None
    with pytest.raises(CacheError, match="1 of 3 shards are committed"):
        TokenCache.open(tmp_path / "x")
    cache = TokenCache.open(tmp_path / "x", allow_partial=True)
    assert repr(cache).endswith("; not sealed, 1 of 3 shards>")
    np.testing.assert_array_equal(cache.rows(), np.arange(4))
    cache.read(cache.rows())
    for read in (cache.read, cache.labels):
        with pytest.raises(CacheError, match=r"row 4 .* is not written yet"):
            read(np.array([4]))


def test_failure_reasons_are_part_of_the_identity_and_explanations_are_not() -> None:
    plan, videos = make_plan(), list(make_plan().videos)
    videos[2] = PlannedVideo("c", reason="unreadable", detail="/elsewhere")
    assert Plan(plan.config, (), tuple(videos)).sha256 == plan.sha256
    videos[2] = PlannedVideo("c", reason="too-short")
    assert Plan(plan.config, (), tuple(videos)).sha256 != plan.sha256
    assert Plan.from_json(plan.to_json()).sha256 == plan.sha256


def test_an_invalid_row_has_its_reason(tmp_path: Path) -> None:
    plan = make_plan()
    fill(tmp_path / "x", plan)
    [bad, *_] = CacheWriter(tmp_path / "x", TokenCache.open(tmp_path / "x").header).invalid_rows()
    assert bad == InvalidRow(bad.row, "truncated", "cut off")
