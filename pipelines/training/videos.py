"""The videos that a run trains on: decode workers, plan and clips, and what the summary says of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from tokenreel.config import merge, to_mapping
from tokenreel.data.clips import ClipReader
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import TOO_SHORT, Plan
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.video.probe_store import probes_beside
from tokenreel.pipelines.common.plans import describe_splits, inventory_of, plan_of, require_all_taken
from tokenreel.pipelines.requests.training import TrainGeneratorRequest, TrainTokenizerRequest
from tokenreel.pipelines.training.distributed import Processes
from tokenreel.pipelines.training.initial_model import InitialModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingVideos:
    source: VideoSource
    plan: Plan
    reader: ClipReader

    def summary(self) -> dict[str, Any]:
        """Splits, what was found, and what could not be decoded."""
        plan, failures = self.plan, self.reader.failures
        return {
            **describe_splits(self.source, plan),
            "inventory": inventory_of(self.source, plan),
            "videos_too_short": sum(reason == TOO_SHORT for _, reason, _ in plan.excluded),
            "quarantined": len(plan.unreadable) + len(failures),
            "quarantined_videos": [f"{name}: {reason} ({detail})" for name, reason, detail in plan.unreadable[:20]],
            "quarantined_clips": [f"{row}: {failure}" for row, failure in list(failures.items())[:20]],
        }


@contextmanager
def training_videos(
    request: TrainTokenizerRequest | TrainGeneratorRequest, config: DataConfig, accelerator: Accelerator
) -> Iterator[TrainingVideos]:
    """The videos of `request.data`, which are read within this context. Warns where none is held out.

    Raises DataError where the source fails, and as `require_all_taken` with `strict`.
    """
    probes = None if request.dry_run else probes_beside(request.out)
    with DecodePool(request.data, request.workers, probes) as pool:
        plan = _shared_plan(pool, config, request.limit, Processes(accelerator))
        if request.strict:
            require_all_taken(pool.source, plan)
        if not len(plan.rows("validation")) and accelerator.is_main_process:
            logger.warning("validation: %s", describe_splits(pool.source, plan)["validation"])
        yield TrainingVideos(pool.source, plan, ClipReader(plan, pool, request.clip_memory))


def _shared_plan(pool: DecodePool, config: DataConfig, limit: int | None, processes: Processes) -> Plan:
    """The plan, which the main process makes first; the others then read its probes."""
    return processes.in_main(lambda: plan_of(pool, config, limit=limit)) or plan_of(pool, config, limit=limit)


def over_saved(sections: Mapping[str, Any], section: str, initial: InitialModel | None) -> dict[str, Any]:
    """`sections` over the settings of a saved model, which are those of `section`, and the framing of its clips."""
    if initial is None:
        return dict(sections)
    spec = initial.model.spec
    framed = {"frames": spec.frames, "framing": to_mapping(spec.framing)}
    model = initial.settings(sections.get(section) or {})
    return {**sections, "data": merge(framed, sections.get("data") or {}), section: model}
