"""The plan of a data set, made by reading the containers of its videos, and what it takes of the data set."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import REQUESTED, Plan, make_plan, requested_exclusions
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.inventory import Inventory
from tokenreel.data.splits import SPLITS, split_of_name
from tokenreel.data.video.probe import DecodeFailure, VideoProbe
from tokenreel.errors import DataError
from tokenreel.pipelines.common.progress import progress

Probe = VideoProbe | DecodeFailure


def probe_videos(pool: DecodePool, skip: Container[str] = ()) -> Iterator[Probe | None]:
    """What the containers of all videos say, in order; None of those whose id is in `skip`, which are not opened.

    Raises DataError where the source itself fails.
    """
    wanted = [index for index, entry in enumerate(pool.source.entries) if entry.id not in skip]
    found = progress(pool.probe(wanted), "plan", "video", total=len(wanted))
    return (None if entry.id in skip else next(found) for entry in pool.source.entries)


def with_contents(plan: Plan, source: VideoSource) -> Plan:
    """The plan that also states the content of its videos' files. Raises DataError where one cannot be read."""
    readable = [index for index, video in enumerate(plan.videos) if video.reason is None]
    contents = progress(map(source.content, readable), "hash", "video", total=len(readable))
    return plan.with_contents(dict(zip(readable, contents, strict=True)))


def plan_of(
    pool: DecodePool,
    config: DataConfig,
    probes: Iterable[Probe | None] | None = None,
    exclude: Sequence[str] = (),
    limit: int | None = None,
) -> Plan:
    """The plan of the pool's videos, without those of `exclude`, and with `limit` of the others; `probes` where they
    are at hand.

    Raises what `make_plan` raises.
    """
    if probes is None:
        probes = probe_videos(pool, requested_exclusions(pool.source.entries, exclude, limit))
    return make_plan(pool.source, config, probes, exclude, limit)


def inventory_of(source: VideoSource, plan: Plan) -> dict[str, Any]:
    """What was found at the source, taken by the plan, and skipped by either, by reason."""
    taken = len(plan.videos) - len(plan.excluded)
    return source.inventory.plus(_excluded(plan, with_requested=True)).to_json(taken)


def describe_splits(source: VideoSource, plan: Plan) -> dict[str, Any]:
    """Videos and clips of each split, and where the validation videos come from."""
    videos = [video for video in plan.videos if video.source_frames is not None]
    counts = {
        split: {"videos": sum(video.split == split for video in videos), "clips": len(plan.rows(split))}
        for split in SPLITS
    }
    return {"splits": counts, "validation": _validation(source, plan)}


def require_nothing_skipped(location: str, inventory: Inventory) -> None:
    """Raises DataError, naming what was skipped and why, unless all that was found is used (`--strict`)."""
    if inventory.skipped:
        raise DataError(f"{location}: --strict, and {inventory.count} of what it holds are skipped: {inventory}")


def require_all_taken(source: VideoSource, plan: Plan) -> None:
    """Raises DataError as `require_nothing_skipped`, for the plan's videos too, except those excluded by request."""
    require_nothing_skipped(source.location, source.inventory.plus(_excluded(plan, with_requested=False)))


def _excluded(plan: Plan, with_requested: bool) -> Inventory:
    reasons = {reason for _, reason, _ in plan.excluded if with_requested or reason not in REQUESTED}
    return Inventory.of({reason: [name for name, why, _ in plan.excluded if why == reason] for reason in reasons})


def _validation(source: VideoSource, plan: Plan) -> str:
    """In words."""
    held_out = [video.id for video in plan.videos if video.source_frames is not None and video.split == "validation"]
    if not held_out:
        return "none: nothing will be scored; give more videos, a validation split, or data.validation above 0"
    stated = {entry.id: entry.split for entry in source.entries}
    splits = {None if (split := stated[name]) is None else split_of_name(split, name) for name in held_out}
    if "validation" in splits:
        return "as the data state it"
    of = "train, as the data have no validation split" if "train" in splits else "the videos, which state no split"
    count = f"{len(held_out)} video{'s' * (len(held_out) > 1)}"
    return f"{count}, held out of {of} (data.validation={plan.config.validation:g})"
