"""`tokenreel train-tokenizer`: stage one. Videos -> a trained tokenizer in its run folder."""

from __future__ import annotations

from typing import Any

import torch

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.clips import ClipReader
from tokenreel.data.plan import Plan
from tokenreel.data.plan_config import DataConfig
from tokenreel.pipelines.common.settings import require_section, resolve
from tokenreel.pipelines.requests.training import TrainTokenizerRequest
from tokenreel.pipelines.training.adversarial_objective import (
    AdversarialTokenizerObjective,
    AdversarialTrainingConfig,
    tokenizer_training,
)
from tokenreel.pipelines.training.initial_model import load_initial
from tokenreel.pipelines.training.run_folder import RunIdentity
from tokenreel.pipelines.training.session import Session, make_accelerator
from tokenreel.pipelines.training.tokenizer_objective import TokenizerObjective, TokenizerTrainingConfig
from tokenreel.pipelines.training.videos import over_saved, training_videos
from tokenreel.tokenizers.base import TOKENIZERS, VideoTokenizer, build_tokenizer


def run(request: TrainTokenizerRequest) -> dict[str, Any]:
    """Trains the preset's tokenizer on the training videos of `data` and exports it into `out`.

    Raises ConfigError, HubError, DataError and CheckpointError, and KeyboardInterrupt after a signal, once the
    checkpoint is written.
    """
    sections = resolve(request.preset, request.config, request.assignments, request.overrides, "tokenizer")
    training = tokenizer_training(sections.get("training", {}))
    initial = load_initial(VideoTokenizer, request.init_from, request.revision)
    sections = over_saved(sections, "tokenizer", initial)
    data = from_mapping(DataConfig, require_section(sections, "data"), "data")
    model = TOKENIZERS.config(require_section(sections, "tokenizer"), "tokenizer")
    accelerator = make_accelerator(request.device, training.log_with, request.out)
    with training_videos(request, data, accelerator) as videos:
        torch.manual_seed(training.seed)
        tokenizer = build_tokenizer(to_mapping(model), data.frames, data.framing)
        objective = _make_objective(tokenizer, videos.plan, videos.reader, training, accelerator.device)
        loaded = initial.load_into(tokenizer, objective, accelerator.is_main_process) if initial is not None else {}
        del initial  # its memory
        resolved = {"data": to_mapping(data), "tokenizer": to_mapping(model), "training": to_mapping(training)}
        identity = RunIdentity("train-tokenizer", {**resolved, **objective.origin}, videos.plan.sha256, request.data)
        session = Session(identity, request.out, request.resume, accelerator)
        result = session.estimate(objective, training) if request.dry_run else session.train(objective, training)
    return {**result, **loaded, **videos.summary()}


def _make_objective(
    tokenizer: VideoTokenizer, plan: Plan, clips: ClipReader, training: TokenizerTrainingConfig, device: torch.device
) -> TokenizerObjective:
    """The objective for the `training:` section. Raises what AdversarialTokenizerObjective raises."""
    if isinstance(training, AdversarialTrainingConfig):
        return AdversarialTokenizerObjective(tokenizer, plan, clips, training, device)
    return TokenizerObjective(tokenizer, plan, clips, training, device)
