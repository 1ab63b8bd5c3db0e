from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from tokenreel.data.plan import Plan, make_plan, requested_exclusions
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.sources.base import VideoEntry, VideoSource
from tokenreel.data.spec import Framing
from tokenreel.data.splits import select_validation
from tokenreel.data.video.probe import DecodeFailure, VideoProbe
from tokenreel.errors import ConfigError, DataError


class NamedVideos(VideoSource):
    def __init__(self, entries: Sequence[VideoEntry]) -> None:
        self.location = "somewhere"
        self.entries = tuple(entries)

    def probe(self, index: int) -> VideoProbe:
        raise NotImplementedError

    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        raise NotImplementedError


def probe(times: Sequence[float]) -> VideoProbe:
    return VideoProbe(np.array(times, dtype=np.float64), 48, 64, "h264")


def steady(frames: int, rate: float = 25.0) -> VideoProbe:
    return probe(np.arange(frames) / rate)


def names(count: int) -> list[VideoEntry]:
    return [VideoEntry(f"v{i:03d}.mp4") for i in range(count)]


def config(
    frames: int = 5, clip_stride: int | None = None, frame_rate: float | None = None, **division: float
) -> DataConfig:
    return DataConfig(Framing(32, 32, frame_rate), frames, clip_stride, **division)  # type: ignore[arg-type]


@pytest.mark.parametrize(("clip_stride", "firsts"), [(None, [0, 5, 10]), (1, [*range(13)]), (7, [0, 7])])
def test_clips_cover_a_video_and_do_not_exceed_it(clip_stride: int | None, firsts: list[int]) -> None:
    plan = make_plan(NamedVideos(names(1)), config(clip_stride=clip_stride), [steady(17)])
    assert plan.first.tolist() == firsts
    assert [plan.indices(row).tolist() for row in range(len(plan))] == [[*range(f, f + 5)] for f in firsts]


def test_clips_follow_time_where_the_frame_rate_varies() -> None:
    """At 10 frames per second, frames of the slow half are repeated, and some of the fast half are skipped."""
    times = [0, 0.2, 0.4, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
    plan = make_plan(NamedVideos(names(1)), config(frames=3, frame_rate=10.0), [probe(times)])
    assert plan.indices(0).tolist() == [0, 0, 1]
    assert plan.indices(2).tolist() == [3, 5, 7]
    assert plan.request(2).video == 0


def test_the_split_is_by_video_and_stable_when_videos_are_added() -> None:
    few = make_plan(NamedVideos(names(40)), config(), [steady(17)] * 40)
    more = make_plan(NamedVideos(names(60)), config(), [steady(17)] * 60)
    assert [v.split for v in more.videos[:40]] == [v.split for v in few.videos]
    for video in range(40):
        assert len(set(few.split[few.video == video].tolist())) == 1
    assert 0 < len(few.rows("validation")) < len(few.rows("train"))
    other = make_plan(NamedVideos(names(40)), config(seed=1), [steady(17)] * 40)
    assert [v.split for v in other.videos] != [v.split for v in few.videos]


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_two_videos_are_one_for_each_split(seed: int, fraction: float) -> None:
    assert len(select_validation(["a", "b"], fraction, seed)) == 1
    assert select_validation(["a"], fraction, seed) == set()
    assert select_validation(["a", "b"], 0, seed) == set()


def test_a_split_that_the_source_declares_is_kept() -> None:
    entries = [VideoEntry("a", split="train"), VideoEntry("b", split="val"), VideoEntry("c", split="TEST")]
    plan = make_plan(NamedVideos(entries), config(), [steady(5)] * 3)
    assert [video.split for video in plan.videos] == ["train", "validation", "test"]
    with pytest.raises(DataError, match="b: split 'tset' is not known; did you mean 'test'"):
        make_plan(NamedVideos([VideoEntry("b", split="tset")]), config(), [steady(5)])


def test_validation_is_held_out_of_train_where_the_source_has_none() -> None:
    """As of videos without splits: the same ones, and none that the source calls test."""
    entries = [VideoEntry(e.id, split="test" if i % 3 == 0 else "train") for i, e in enumerate(names(40))]
    plan = make_plan(NamedVideos(entries), config(), [steady(5)] * 40)
    assert [v.id for v in plan.videos if v.split == "test"] == [e.id for e in entries if e.split == "test"]
    chosen = {v.id for v in plan.videos if v.split == "validation"}
    assert chosen == select_validation([e.id for e in entries if e.split == "train"], 0.1, 0) != set()
    without = make_plan(NamedVideos(entries), config(validation=0), [steady(5)] * 40)
    assert {video.split for video in without.videos} == {"train", "test"}


@pytest.mark.parametrize("seed", range(5))
def test_videos_of_a_group_are_in_one_split(seed: int) -> None:
    """And a group of one, or none, changes nothing."""
    entries = [VideoEntry(f"{scene:02d}/{camera}", group=f"{scene:02d}") for scene in range(30) for camera in "ab"]
    plan = make_plan(NamedVideos(entries), config(seed=seed, validation=0.3), [steady(5)] * 60)
    splits = [{v.split for v in plan.videos if v.id.startswith(f"{scene:02d}")} for scene in range(30)]
    assert all(len(split) == 1 for split in splits)
    assert {"train"} in splits
    assert {"validation"} in splits
    alone = [VideoEntry(e.id, group=e.id) for e in names(40)]
    ungrouped, grouped = (make_plan(NamedVideos(e), config(seed=seed), [steady(5)] * 40) for e in (names(40), alone))
    assert grouped.sha256 == ungrouped.sha256


def test_which_videos_of_a_group_are_used_does_not_change_its_split() -> None:
    entries = [VideoEntry(f"{scene:02d}/{camera}", group=f"{scene:02d}") for scene in range(30) for camera in "ab"]
    settings, probes = config(validation=0.3), [steady(5)] * 60
    split = {video.id: video.split for video in make_plan(NamedVideos(entries), settings, probes).videos}
    for camera in "ab":
        excluded = [entry.id for entry in entries if entry.id.endswith(camera)]
        part = make_plan(NamedVideos(entries), settings, probes, exclude=excluded)
        used = {video.id: video.split for video in part.videos if video.source_frames is not None}
        assert len(used) == 30
        assert used == {name: split[name] for name in used}


def test_a_group_in_two_stated_splits_is_refused() -> None:
    entries = [VideoEntry("a", split="train", group="g"), VideoEntry("b", split="test", group="g")]
    with pytest.raises(
        DataError, match=r"a and b belong together \(group 'g'\), but the data state the splits train and"
    ):
        make_plan(NamedVideos(entries), config(), [steady(5)] * 2)


def test_a_stated_validation_split_is_not_added_to() -> None:
    entries = [*names(40), VideoEntry("val/a", split="val")]
    plan = make_plan(NamedVideos(entries), config(), [steady(5)] * 41)
    assert [video.split for video in plan.videos] == ["train"] * 40 + ["validation"]


def test_videos_without_a_clip_are_omitted_with_the_reason() -> None:
    probes = [steady(4), steady(9), DecodeFailure("no-video", "sound only"), steady(9)]
    plan = make_plan(NamedVideos(names(4)), config(), probes, exclude=["v003.mp4"])
    assert plan.excluded == [
        ("v000.mp4", "too-short", "4 frames, a clip has 5"),
        ("v002.mp4", "no-video", "sound only"),
        ("v003.mp4", "by-request", ""),
    ]
    assert plan.video.tolist() == [1]


def test_a_plan_without_a_clip_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match=r"none of its 1 videos gives a clip .*: v000\.mp4: too-short \(4 frames"):
        make_plan(NamedVideos(names(1)), config(), [steady(4)])
    with pytest.raises(DataError, match=r"exclude 'v001\.mp': no such video; did you mean 'v001\.mp4'"):
        make_plan(NamedVideos(names(2)), config(), [steady(9)] * 2, exclude=["v001.mp"])


def test_labels_are_indices_of_classes() -> None:
    entries = [VideoEntry("a", label="push"), VideoEntry("b"), VideoEntry("c", label="lift")]
    plan = make_plan(NamedVideos(entries), config(), [steady(5)] * 3)
    assert plan.classes == ("lift", "push")
    assert plan.label.tolist() == [1, -1, 0]


def test_json_round_trip() -> None:
    entries = [VideoEntry("a", label="push"), VideoEntry("b"), VideoEntry("c")]
    probes = [steady(31), steady(3), probe([0, 0.1, 0.25, 0.31, 0.45, 0.5, 0.62])]
    plan = make_plan(NamedVideos(entries), config(frame_rate=10.0, clip_stride=2), probes)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert (again.sha256, again.config, again.excluded) == (plan.sha256, plan.config, plan.excluded)
    for name in ("video", "first", "label", "split"):
        np.testing.assert_array_equal(getattr(again, name), getattr(plan, name))
    assert [again.indices(r).tolist() for r in range(len(again))] == [
        plan.indices(r).tolist() for r in range(len(plan))
    ]


def test_a_source_that_changed_is_refused() -> None:
    plan = make_plan(NamedVideos(names(3)), config(), [steady(9)] * 3)
    plan.require_source(NamedVideos(names(3)))
    with pytest.raises(DataError, match=r"1 differ, e.g. 'v003\.mp4'"):
        plan.require_source(NamedVideos(names(4)))


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"frames": 0}, {"clip_stride": 0}, {"validation": 1.0}):
        with pytest.raises(ConfigError, match="must be"):
            config(**wrong)  # type: ignore[arg-type]


def test_a_limit_keeps_so_many_videos_spread_over_their_order() -> None:
    """Of 23 videos 5: the fifths of their order; excluded ones do not count, and the skipped ones need no probe."""
    entries = names(23)
    skipped = requested_exclusions(entries, ["v000.mp4"], 5)
    probes = [None if entry.id in skipped else steady(9) for entry in entries]
    plan = make_plan(NamedVideos(entries), config(), probes, ["v000.mp4"], 5)
    kept = [int(video.id[1:4]) for video in plan.videos if video.source_frames is not None]
    assert kept == [1, 5, 9, 14, 18]
    assert Counter(reason for _, reason, _ in plan.excluded) == {"over-limit": 17, "by-request": 1}
    assert not plan.unreadable
    assert plan.sha256 != make_plan(NamedVideos(entries), config(), [steady(9)] * 23, ["v000.mp4"]).sha256
    for limit in (22, 100, None):
        assert requested_exclusions(entries, ["v000.mp4"], limit) == {"v000.mp4": "by-request"}
