"""`tokenreel train-tokenizer`: stage one. Videos -> a trained tokenizer in a run folder that is the tokenizer's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.clips import ClipReader
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import DataConfig, Plan, make_plan
from tokenreel.pipelines.common.settings import require_section, resolve
from tokenreel.pipelines.training.adversarial_objective import (
    AdversarialTokenizerObjective,
    AdversarialTrainingConfig,
    tokenizer_training,
)
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.run_folder import RunIdentity
from tokenreel.pipelines.training.session import Session, make_accelerator
from tokenreel.pipelines.training.tokenizer_objective import TokenizerObjective
from tokenreel.tokenizers.base import TOKENIZERS, VideoTokenizer, build_tokenizer

CLIPS_MEMORY_GB = 1.0  # of decoded clips held, in each process


def run(
    *,
    preset: str | None = None,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    data: str,
    out: Path,
    steps: int | None = None,
    device: str | None = None,
    resume: str = "auto",
    workers: int = 1,
    seed: int | None = None,
    log_with: Sequence[str] = (),
    dry_run: bool = False,
) -> dict[str, Any]:
    """Trains the preset's tokenizer on the training videos of `data` and exports it into `out`.

    `workers` decode in processes of their own; 0 decodes in this one. Raises ConfigError, DataError and
    CheckpointError as the parts do, and KeyboardInterrupt after a signal, once the checkpoint is written.
    """
    flags = {"training.steps": steps, "training.seed": seed, "training.log_with": list(log_with) or None}
    sections = resolve(preset, config, assignments, flags, "tokenizer")
    training = tokenizer_training(sections.get("training", {}))
    clips = from_mapping(DataConfig, require_section(sections, "data"), "data")
    model = TOKENIZERS.config(require_section(sections, "tokenizer"), "tokenizer")
    accelerator = make_accelerator(device, training.log_with, out)
    with DecodePool(data, workers) as pool:
        plan = make_plan(pool.source, clips, pool.probe(range(len(pool.source.entries))))
        torch.manual_seed(training.seed)
        tokenizer = build_tokenizer(to_mapping(model), clips.frames, clips.framing)
        reader = ClipReader(plan, pool, CLIPS_MEMORY_GB)
        objective = make_objective(tokenizer, plan, reader, training, accelerator.device)
        resolved = {"data": to_mapping(clips), "tokenizer": to_mapping(model), "training": to_mapping(training)}
        identity = RunIdentity("train-tokenizer", resolved, plan.sha256, data)
        session = Session(identity, out, resume, accelerator)
        result = session.estimate(objective, training) if dry_run else session.train(objective, training)
    return {
        **result,
        "videos_too_short": len(plan.excluded) - len(plan.unreadable),
        "quarantined": len(plan.unreadable) + len(reader.failures),
        "quarantined_videos": [f"{name}: {reason} ({detail})" for name, reason, detail in plan.unreadable[:20]],
        "quarantined_clips": [f"{row}: {failure}" for row, failure in list(reader.failures.items())[:20]],
    }


def make_objective(
    tokenizer: VideoTokenizer, plan: Plan, clips: ClipReader, training: TrainingConfig, device: torch.device
) -> TokenizerObjective:
    """The one that the `training:` section asks for. Raises what AdversarialTokenizerObjective raises."""
    if isinstance(training, AdversarialTrainingConfig):
        return AdversarialTokenizerObjective(tokenizer, plan, clips, training, device)
    return TokenizerObjective(tokenizer, plan, clips, training, device)
