"""The plan: the clips of the videos, by row, and the split of each video. Made before anything is decoded.

It is a pure function of the source's videos, their packets' times and the configuration, so every worker and
every restart sees the same rows. A plan does not promise that a row decodes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.plan_config import DataConfig, plan_sha256
from tokenreel.data.sources.base import ReadRequest, VideoEntry, VideoSource
from tokenreel.data.sources.content import Content
from tokenreel.data.splits import GROUP_MARK, SPLITS, divide, split_of_name
from tokenreel.data.video.probe import DecodeFailure, VideoProbe, resample_indices
from tokenreel.errors import ConfigError, DataError, nearest_name

TOO_SHORT, BY_REQUEST, OVER_LIMIT = "too-short", "by-request", "over-limit"  # reasons that mean no unreadable file
REQUESTED = (BY_REQUEST, OVER_LIMIT)  # of them, those that a flag caused
NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class PlannedVideo:
    """A video of the source: the source frame at each tick of its resampled timeline, or why it is excluded."""

    id: str
    label: int = NO_LABEL  # index into the plan's classes
    split: str = "train"
    source_frames: np.ndarray | None = None  # int64 [m], the source frame at each tick; None if excluded
    reason: str | None = None  # why it is excluded
    detail: str = ""  # for people; not hashed, because it may contain a path
    content: Content | None = None  # of its files, where the plan is for a cache

    def to_json(self) -> dict[str, Any]:
        if self.source_frames is None:
            return {"id": self.id, "excluded": self.reason, "detail": self.detail}
        every_frame = np.array_equal(self.source_frames, np.arange(len(self.source_frames)))
        times = {"frames": len(self.source_frames)} if every_frame else {"source_frames": self.source_frames.tolist()}
        content = {} if self.content is None else {"content": to_mapping(self.content)}
        return {"id": self.id, "label": self.label, "split": self.split, **times, **content}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> PlannedVideo:
        if "excluded" in line:
            return cls(line["id"], reason=line["excluded"], detail=line["detail"])
        resampled = "source_frames" in line
        source_frames = np.asarray(line["source_frames"], dtype=np.int64) if resampled else np.arange(line["frames"])
        content = from_mapping(Content, line["content"], "content") if "content" in line else None
        return cls(line["id"], line["label"], line["split"], source_frames, content=content)


@dataclass(frozen=True, eq=False)
class Plan:
    """The rows of a data set.

    Row arrays: `video` (index into `videos`, which are the source's entries), `first` (tick of the resampled timeline
    where the clip begins), `label` (index into `classes`, or -1), `split` (index into SPLITS).
    """

    config: DataConfig
    classes: tuple[str, ...]
    videos: tuple[PlannedVideo, ...]

    def __len__(self) -> int:
        return len(self.video)

    @cached_property
    def video(self) -> np.ndarray:
        """int32 [N]: index into `videos`."""
        return np.repeat(np.arange(len(self.videos), dtype=np.int32), self._clips)

    @cached_property
    def first(self) -> np.ndarray:
        """int64 [N]: the tick of the resampled timeline at which the clip begins."""
        stride = self.config.clip_stride or self.config.frames
        return np.concatenate([np.arange(n, dtype=np.int64) * stride for n in self._clips])

    @cached_property
    def label(self) -> np.ndarray:
        """int32 [N]: index into `classes`, or -1."""
        return np.array([video.label for video in self.videos], dtype=np.int32)[self.video]

    @cached_property
    def split(self) -> np.ndarray:
        """int8 [N]: index into SPLITS."""
        return np.array([SPLITS.index(video.split) for video in self.videos], dtype=np.int8)[self.video]

    @cached_property
    def _clips(self) -> np.ndarray:
        """int64 [videos]: the number of clips of each video."""
        stride, frames = self.config.clip_stride or self.config.frames, self.config.frames
        return np.where(self._ticks < frames, 0, (self._ticks - frames) // stride + 1)

    @cached_property
    def _ticks(self) -> np.ndarray:
        """int64 [videos]: the length of each video's resampled timeline."""
        return np.array([0 if v.source_frames is None else len(v.source_frames) for v in self.videos], dtype=np.int64)

    @property
    def excluded(self) -> list[tuple[str, str, str]]:
        """(id, reason, detail) of the videos without rows."""
        return [(v.id, v.reason, v.detail) for v in self.videos if v.reason is not None]

    @property
    def unreadable(self) -> list[tuple[str, str, str]]:
        """Those of `excluded` whose file cannot be read: neither too short nor excluded by request."""
        return [
            (name, reason, detail) for name, reason, detail in self.excluded if reason not in (TOO_SHORT, *REQUESTED)
        ]

    def rows(self, split: str | None = None) -> np.ndarray:
        """int64 [n]: the rows of a split, or all. Raises ConfigError for an unknown split."""
        if split is None:
            return np.arange(len(self))
        if split not in SPLITS:
            raise ConfigError(f"split {split!r} is not known; {nearest_name(split, SPLITS)}")
        return np.flatnonzero(self.split == SPLITS.index(split))

    def indices(self, row: int, first: int | None = None, frames: int | None = None) -> np.ndarray:
        """int64 [T]: the source frames of the row's clip, ascending, repeated where the source has a lower rate; or of
        the clip of `frames` that begins at tick `first` of the row's video.
        """
        source_frames = self.videos[self.video[row]].source_frames
        assert source_frames is not None  # an excluded video has no rows
        first = int(self.first[row]) if first is None else first
        return source_frames[first : first + (self.config.frames if frames is None else frames)]

    def starts(self, rows: np.ndarray, frames: int) -> np.ndarray:
        """int64 [n]: at how many ticks of each row's video a clip of `frames`, at most those of the plan, can begin."""
        return self._ticks[self.video[rows]] - frames + 1

    def request(self, row: int, first: int | None = None, frames: int | None = None) -> ReadRequest:
        """The request to a decode pool that reads a clip: see `indices`."""
        return ReadRequest(int(self.video[row]), self.indices(row, first, frames), self.config.framing)

    def ticks(self, row: int) -> np.ndarray:
        """int64 [T]: the ticks of the row's frames on its video's resampled timeline."""
        return self.first[row] + np.arange(self.config.frames)

    def video_id(self, row: int) -> str:
        """The id of the video that the row's clip is from."""
        return self.videos[self.video[row]].id

    def class_name(self, row: int) -> str:
        """The class of the row's clip. Raises DataError if its video has none."""
        video = self.videos[self.video[row]]
        if video.label == NO_LABEL:
            raise DataError(f"{video.id}: it has no class; give one in metadata.csv, or exclude the video")
        return self.classes[video.label]

    def require_source(self, source: VideoSource) -> None:
        """Raises DataError unless `source` has the videos of the plan."""
        now, then = [entry.id for entry in source.entries], [video.id for video in self.videos]
        changed = sorted(set(now) ^ set(then))
        if changed:
            raise DataError(
                f"{source.location}: its videos differ from those of the plan ({len(changed)} differ, e.g. "
                f"{changed[0]!r}): give the data that the plan was made from, or use a new output folder"
            )

    def with_contents(self, contents: Mapping[int, Content | None]) -> Plan:
        """The plan that also states the content of the files of these videos (indices into `videos`)."""
        videos = (dataclasses.replace(v, content=contents.get(index)) for index, v in enumerate(self.videos))
        return dataclasses.replace(self, videos=tuple(videos))

    def require_content(self, source: VideoSource, video: int) -> None:
        """Raises DataError if the files of a video of `source` are not those of which the plan states the content."""
        planned = self.videos[video]
        if planned.content is not None and source.content(video) != planned.content:
            raise DataError(
                f"{source.location}: {planned.id} is another file than the one that the plan was made from (its size "
                "or content differs): restore the data, or use a new output folder"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "config": to_mapping(self.config),
            "classes": list(self.classes),
            "videos": [video.to_json() for video in self.videos],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        videos = tuple(PlannedVideo.from_json(line) for line in document["videos"])
        return cls(from_mapping(DataConfig, document["config"], "plan.config"), tuple(document["classes"]), videos)

    @cached_property
    def sha256(self) -> str:
        """The plan's identity: everything except the explanations of exclusions."""
        return plan_sha256(self.to_json())


def requested_exclusions(
    entries: Sequence[VideoEntry], exclude: Iterable[str] = (), limit: int | None = None
) -> dict[str, str]:
    """Which videos are not to be used, id -> reason: those of `exclude`, and of the others all but `limit`, which are
    spread evenly over their order, so that a few of each class and split are among them.

    Raises DataError for an unknown id.
    """
    excluded = dict.fromkeys(exclude, BY_REQUEST)
    names = [entry.id for entry in entries]
    if unknown := set(excluded) - set(names):
        name = min(unknown)
        raise DataError(f"exclude {name!r}: no such video; {nearest_name(name, names)}")
    others = [name for name in names if name not in excluded]
    if limit is None or limit >= len(others):
        return excluded
    kept = {others[at] for at in (np.arange(limit) * len(others) // limit).tolist()}
    return {**excluded, **{name: OVER_LIMIT for name in others if name not in kept}}


def make_plan(
    source: VideoSource,
    config: DataConfig,
    probes: Iterable[VideoProbe | DecodeFailure | None],
    exclude: Iterable[str] = (),
    limit: int | None = None,
) -> Plan:
    """Plans the clips of `source`, whose entries `probes` describe in order (None: one that is excluded by request).

    `exclude` and `limit` as in `requested_exclusions`. Raises DataError as it does, and if no video gives a clip; its
    message says why the first ones were excluded.
    """
    excluded = requested_exclusions(source.entries, exclude, limit)
    videos = []
    for entry, probe in zip(source.entries, probes, strict=True):
        if entry.id in excluded:
            videos.append(PlannedVideo(entry.id, reason=excluded[entry.id]))
        else:
            assert probe is not None
            videos.append(_plan_video(entry, probe, config, source.classes))
    if all(video.source_frames is None for video in videos):
        tried = [video for video in videos if video.reason != OVER_LIMIT]
        reasons = "; ".join(f"{v.id}: {v.reason}{f' ({v.detail})' if v.detail else ''}" for v in tried[:3])
        more = f"; and {len(tried) - 3} more" if len(tried) > 3 else ""
        raise DataError(
            f"{source.location}: none of its {len(tried)} videos gives a clip of {config.frames} frames: "
            f"{reasons}{more}. Give videos that can be read and are long enough, or train with a smaller data.frames"
        )
    return Plan(config, tuple(source.classes), _divide(videos, source.entries, config))


def _plan_video(
    entry: VideoEntry, probe: VideoProbe | DecodeFailure, config: DataConfig, classes: tuple[str, ...]
) -> PlannedVideo:
    if isinstance(probe, DecodeFailure):
        return PlannedVideo(entry.id, reason=probe.reason, detail=probe.detail)
    source_frames = resample_indices(probe, config.framing.frame_rate)
    if len(source_frames) < config.frames:
        detail = f"{len(source_frames)} frames, a clip has {config.frames}"
        return PlannedVideo(entry.id, reason=TOO_SHORT, detail=detail)
    label = NO_LABEL if entry.label is None else classes.index(entry.label)
    return PlannedVideo(entry.id, label, source_frames=source_frames)


def _divide(
    videos: list[PlannedVideo], entries: tuple[VideoEntry, ...], config: DataConfig
) -> tuple[PlannedVideo, ...]:
    """Sets the split of each video: that of the source if it has one, see `divide`."""
    used = [entry for video, entry in zip(videos, entries, strict=True) if video.source_frames is not None]
    declared = {entry.id: None if entry.split is None else split_of_name(entry.split, entry.id) for entry in used}
    groups = _groups(entries)  # of unused ones too, so that a video's split does not depend on which others are used
    splits = divide(declared, groups, config.validation, config.seed)
    return tuple(dataclasses.replace(v, split=splits[v.id]) if v.id in splits else v for v in videos)


def _groups(entries: Sequence[VideoEntry]) -> dict[str, str]:
    """By id: the group of a video that shares one, marked; else its id."""
    members = Counter(entry.group for entry in entries if entry.group is not None)
    return {e.id: f"{GROUP_MARK}{e.group}" if e.group is not None and members[e.group] > 1 else e.id for e in entries}
