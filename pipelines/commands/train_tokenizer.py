"""`tokenreel train-tokenizer`: stage one. Videos -> a trained tokenizer in its run folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from tokenreel.config import from_mapping, merge, to_mapping
from tokenreel.data.clips import ClipReader
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import TOO_SHORT, Plan
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.video.probe_store import probes_beside
from tokenreel.pipelines.common.plans import describe_splits, inventory_of, plan_of, require_all_taken
from tokenreel.pipelines.common.settings import require_section, resolve
from tokenreel.pipelines.requests.training import TrainTokenizerRequest
from tokenreel.pipelines.training.adversarial_objective import (
    AdversarialTokenizerObjective,
    AdversarialTrainingConfig,
    tokenizer_training,
)
from tokenreel.pipelines.training.distributed import Processes
from tokenreel.pipelines.training.initial_model import InitialModel, load_initial
from tokenreel.pipelines.training.run_folder import RunIdentity
from tokenreel.pipelines.training.session import Session, make_accelerator
from tokenreel.pipelines.training.tokenizer_objective import TokenizerObjective, TokenizerTrainingConfig
from tokenreel.tokenizers.base import TOKENIZERS, VideoTokenizer, build_tokenizer

logger = logging.getLogger(__name__)


def run(request: TrainTokenizerRequest) -> dict[str, Any]:
    """Trains the preset's tokenizer on the training videos of `data` and exports it into `out`.

    Raises ConfigError, HubError, DataError and CheckpointError, and KeyboardInterrupt after a signal, once the
    checkpoint is written.
    """
    sections = resolve(request.preset, request.config, request.assignments, request.overrides, "tokenizer")
    training = tokenizer_training(sections.get("training", {}))
    initial = load_initial(VideoTokenizer, request.init_from, request.revision)
    if initial is not None:
        sections = _over_saved(sections, initial)
    clips = from_mapping(DataConfig, require_section(sections, "data"), "data")
    model = TOKENIZERS.config(require_section(sections, "tokenizer"), "tokenizer")
    accelerator = make_accelerator(request.device, training.log_with, request.out)
    probes = None if request.dry_run else probes_beside(request.out)
    with DecodePool(request.data, request.workers, probes) as pool:
        plan = _plan(pool, clips, request.limit, Processes(accelerator))
        if request.strict:
            require_all_taken(pool.source, plan)
        splits = describe_splits(pool.source, plan)
        if not len(plan.rows("validation")) and accelerator.is_main_process:
            logger.warning("validation: %s", splits["validation"])
        torch.manual_seed(training.seed)
        tokenizer = build_tokenizer(to_mapping(model), clips.frames, clips.framing)
        reader = ClipReader(plan, pool, request.clip_memory)
        objective = _make_objective(tokenizer, plan, reader, training, accelerator.device)
        loaded = initial.load_into(tokenizer, objective, accelerator.is_main_process) if initial is not None else {}
        del initial  # its memory
        resolved = {"data": to_mapping(clips), "tokenizer": to_mapping(model), "training": to_mapping(training)}
        identity = RunIdentity("train-tokenizer", {**resolved, **objective.origin}, plan.sha256, request.data)
        session = Session(identity, request.out, request.resume, accelerator)
        result = session.estimate(objective, training) if request.dry_run else session.train(objective, training)
    return {
        **result,
        **loaded,
        **splits,
        "inventory": inventory_of(pool.source, plan),
        "videos_too_short": sum(reason == TOO_SHORT for _, reason, _ in plan.excluded),
        "quarantined": len(plan.unreadable) + len(reader.failures),
        "quarantined_videos": [f"{name}: {reason} ({detail})" for name, reason, detail in plan.unreadable[:20]],
        "quarantined_clips": [f"{row}: {failure}" for row, failure in list(reader.failures.items())[:20]],
    }


def _plan(pool: DecodePool, clips: DataConfig, limit: int | None, processes: Processes) -> Plan:
    """The plan, which the main process makes first; the others then read its probes."""
    return processes.in_main(lambda: plan_of(pool, clips, limit=limit)) or plan_of(pool, clips, limit=limit)


def _over_saved(sections: Mapping[str, Any], initial: InitialModel) -> dict[str, Any]:
    """`sections` over the settings of a saved tokenizer and the framing of its clips."""
    spec = initial.model.spec
    framed = {"frames": spec.frames, "framing": to_mapping(spec.framing)}
    model = initial.settings(sections.get("tokenizer") or {})
    return {**sections, "data": merge(framed, sections.get("data") or {}), "tokenizer": model}


def _make_objective(
    tokenizer: VideoTokenizer, plan: Plan, clips: ClipReader, training: TokenizerTrainingConfig, device: torch.device
) -> TokenizerObjective:
    """The objective for the `training:` section. Raises what AdversarialTokenizerObjective raises."""
    if isinstance(training, AdversarialTrainingConfig):
        return AdversarialTokenizerObjective(tokenizer, plan, clips, training, device)
    return TokenizerObjective(tokenizer, plan, clips, training, device)
