"""`tokenreel train-prior`: stage two. A sealed token cache -> a trained prior in its run folder.

It opens the cache and nothing else: no video, and a tokenizer only to show samples in trackers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from tokenreel.config import TYPE_KEY, from_mapping, to_mapping
from tokenreel.data.cache.reader import TokenCache
from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.fingerprints import require_one_tokenizer
from tokenreel.pipelines.common.preset_tokens import require_tokens
from tokenreel.pipelines.common.settings import require_section, resolve
from tokenreel.pipelines.requests.training import TrainPriorRequest
from tokenreel.pipelines.training.initial_model import InitialModel, load_initial
from tokenreel.pipelines.training.prior_objective import PriorObjective, PriorTrainingConfig
from tokenreel.pipelines.training.run_folder import RunIdentity
from tokenreel.pipelines.training.session import Session, make_accelerator
from tokenreel.priors.base import PRIORS, Prior, build_prior, part_of_level
from tokenreel.tokenizers.base import VideoTokenizer

logger = logging.getLogger(__name__)


def run(request: TrainPriorRequest) -> dict[str, Any]:
    """Trains the preset's prior, or the one for `level`, on the training rows of `cache` and exports it into `out`.

    Raises ConfigError (also for a cache of other tokens than the preset is meant for), HubError, CacheError,
    CheckpointError (also where the run was started on tokens of another tokenizer), and KeyboardInterrupt after a
    signal, once the checkpoint is written.
    """
    level = request.level
    sections = resolve(request.preset, request.config, request.assignments, request.overrides, "prior", level)
    initial = load_initial(Prior, request.init_from, request.revision)
    model = PRIORS.config(_prior_section(sections, level, initial), "prior")
    training = from_mapping(PriorTrainingConfig, sections.get("training", {}), "training")
    tokens = TokenCache.open(request.cache)
    require_tokens(sections, tokens.spec)
    accelerator = make_accelerator(request.device, training.log_with, request.out)
    torch.manual_seed(training.seed)
    prior = build_prior(to_mapping(model), tokens.spec)
    objective = PriorObjective(prior, tokens, training, accelerator.device)
    loaded = initial.load_into(prior, objective, accelerator.is_main_process) if initial is not None else {}
    del initial  # its memory
    objective.tokenizer = _load_tokenizer(request, tokens, training, accelerator.device)
    if not len(objective.held_out) and accelerator.is_main_process:
        logger.warning("validation: none: %s has no validation rows, so nothing will be scored", request.cache)
    resolved = {"tokens": tokens.spec.to_json(), "prior": to_mapping(model), "training": to_mapping(training)}
    identity = RunIdentity("train-prior", {**resolved, **objective.origin}, objective.data_identity, str(request.cache))
    session = Session(identity, request.out, request.resume, accelerator)
    result = session.estimate(objective, training) if request.dry_run else session.train(objective, training)
    return {**result, **loaded}


def _load_tokenizer(
    request: TrainPriorRequest, cache: TokenCache, training: PriorTrainingConfig, device: torch.device
) -> VideoTokenizer | None:
    """The tokenizer by which trackers show samples. Raises ConfigError without a tracker, CacheError if the cache was
    made by another one.
    """
    if request.tokenizer is None:
        return None
    if not training.log_with:
        raise ConfigError(
            f"--tokenizer (={request.tokenizer}) shows samples in the trackers of --log-with, which is not given: omit "
            "it, or decode the run's samples/ with `tokenreel decode`"
        )
    tokenizer = VideoTokenizer.from_pretrained(request.tokenizer).freeze().to(device)
    require_one_tokenizer(
        {
            f"--cache {request.cache}": cache.code_fingerprint,
            f"--tokenizer {request.tokenizer}": tokenizer.code_fingerprint,
        }
    )
    return tokenizer


def _prior_section(sections: Mapping[str, Any], level: str | None, initial: InitialModel | None) -> Mapping[str, Any]:
    """The settings of the prior. Those that are not given are the saved model's, where there is one."""
    if initial is None:
        return part_of_level(require_section(sections, "prior"), level)
    section = sections.get("prior") or {}
    if not any(isinstance(value, Mapping) for value in section.values()):  # not one prior per level
        section = {TYPE_KEY: initial.model.config.type, **section}
    return initial.settings(part_of_level(section, level))
