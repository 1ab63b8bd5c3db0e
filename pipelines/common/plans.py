"""The plan of a data set, made by reading the containers of its videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import Plan, make_plan
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.video.reader import DecodeFailure, VideoProbe
from tokenreel.pipelines.common.progress import progress

Probe = VideoProbe | DecodeFailure


def probe_videos(pool: DecodePool) -> Iterator[Probe]:
    """What the containers of all videos say, in order. Raises DataError where the source itself fails."""
    count = len(pool.source.entries)
    return progress(pool.probe(range(count)), "plan", "video", total=count)


def with_contents(plan: Plan, source: VideoSource) -> Plan:
    """The plan that also states the content of its videos' files. Raises DataError where one cannot be read."""
    readable = [index for index, video in enumerate(plan.videos) if video.reason is None]
    contents = progress(map(source.content, readable), "hash", "video", total=len(readable))
    return plan.with_contents(dict(zip(readable, contents, strict=True)))


def plan_of(
    pool: DecodePool, config: DataConfig, probes: Iterable[Probe] | None = None, exclude: Sequence[str] = ()
) -> Plan:
    """The plan of the pool's videos, without those of `exclude`; `probes` where they are at hand.

    Raises what `make_plan` raises.
    """
    return make_plan(pool.source, config, probe_videos(pool) if probes is None else probes, exclude)
