"""`tokenreel train-prior`: stage two. A sealed token cache -> a trained prior in a run folder that is the prior's own.

It opens the cache and nothing else: no video, no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.cache.reader import TokenCache
from tokenreel.pipelines.common.preset_tokens import require_tokens
from tokenreel.pipelines.common.settings import require_section, resolve
from tokenreel.pipelines.training.prior_objective import PriorObjective, PriorTrainingConfig
from tokenreel.pipelines.training.run_folder import RunIdentity
from tokenreel.pipelines.training.session import Session, make_accelerator
from tokenreel.priors.base import PRIORS, build_prior, part_of_level


def run(
    *,
    preset: str | None = None,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    cache: Path,
    out: Path,
    level: str | None = None,
    steps: int | None = None,
    device: str | None = None,
    resume: str = "auto",
    seed: int | None = None,
    log_with: Sequence[str] = (),
    dry_run: bool = False,
) -> dict[str, Any]:
    """Trains the preset's prior, or the one for `level`, on the training rows of `cache` and exports it into `out`.

    Raises ConfigError (also for a cache of other codes than the preset is meant for), CacheError and CheckpointError as
    the parts do (the last one where the run was begun on codes of another tokenizer, or of another vocabulary), and
    KeyboardInterrupt after a signal, once the checkpoint is written.
    """
    flags = {"training.steps": steps, "training.seed": seed, "training.log_with": list(log_with) or None}
    sections = resolve(preset, config, assignments, flags, "prior", level)
    model = PRIORS.config(part_of_level(require_section(sections, "prior"), level), "prior")
    training = from_mapping(PriorTrainingConfig, sections.get("training", {}), "training")
    tokens = TokenCache.open(cache)
    require_tokens(sections, tokens.spec)
    accelerator = make_accelerator(device, training.log_with, out)
    torch.manual_seed(training.seed)
    prior = build_prior(to_mapping(model), tokens.spec)
    objective = PriorObjective(prior, tokens, training, accelerator.device)
    resolved = {"tokens": tokens.spec.to_json(), "prior": to_mapping(model), "training": to_mapping(training)}
    identity = RunIdentity("train-prior", resolved, objective.data_identity, str(cache))
    session = Session(identity, out, resume, accelerator)
    return session.estimate(objective, training) if dry_run else session.train(objective, training)
