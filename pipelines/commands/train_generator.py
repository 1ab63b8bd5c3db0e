"""`tokenreel train-generator`: videos -> a generator of pixels in its run folder, trained against discriminators."""

from __future__ import annotations

from typing import Any

import torch

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.plan_config import DataConfig
from tokenreel.decoders.generators.base import GENERATORS, VideoGenerator, build_generator
from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.class_labels import training_classes
from tokenreel.pipelines.common.settings import require_section, resolve
from tokenreel.pipelines.requests.training import TrainGeneratorRequest
from tokenreel.pipelines.training.generator_config import GeneratorTrainingConfig
from tokenreel.pipelines.training.generator_objective import GeneratorObjective
from tokenreel.pipelines.training.initial_model import load_initial
from tokenreel.pipelines.training.run_folder import RunIdentity
from tokenreel.pipelines.training.session import Session, make_accelerator
from tokenreel.pipelines.training.videos import over_saved, training_videos


def run(request: TrainGeneratorRequest) -> dict[str, Any]:
    """Trains the preset's generator on the training videos of `data` and exports it into `out`. A class-conditional one
    has the classes of those videos.

    Raises ConfigError, HubError, DataError (also for a class-conditional generator and videos without classes) and
    CheckpointError, and KeyboardInterrupt after a signal, once the checkpoint is written.
    """
    sections = resolve(request.preset, request.config, request.assignments, request.overrides, "generator")
    training = from_mapping(GeneratorTrainingConfig, sections.get("training", {}), "training")
    initial = load_initial(VideoGenerator, request.init_from, request.revision)
    if initial is not None and "discriminators" not in sections:
        raise ConfigError(
            f"--init-from {request.init_from}: a saved generator says nothing of its discriminators and rates: give "
            "those that it was trained with as --preset, or its run folder as --config"
        )
    sections = over_saved(sections, "generator", initial)
    data = from_mapping(DataConfig, require_section(sections, "data"), "data")
    model = GENERATORS.config(require_section(sections, "generator"), "generator")
    adversary_class = GENERATORS.member(model.type).adversary_class
    judges = from_mapping(adversary_class.config_class, sections.get("discriminators") or {}, "discriminators")
    accelerator = make_accelerator(request.device, training.log_with, request.out)
    with training_videos(request, data, accelerator) as videos:
        classes = training_classes(videos.plan) if getattr(model, "class_conditional", False) else ()
        torch.manual_seed(training.seed)
        generator = build_generator(to_mapping(model), data.frames, data.framing, classes)
        adversary = generator.new_adversary(to_mapping(judges))
        objective = GeneratorObjective(generator, adversary, videos.plan, videos.reader, training, accelerator.device)
        loaded = initial.load_into(generator, objective, accelerator.is_main_process) if initial is not None else {}
        del initial  # its memory
        resolved = {
            "data": to_mapping(data),
            "generator": to_mapping(model),
            "discriminators": to_mapping(judges),
            "training": to_mapping(training),
        }
        identity = RunIdentity("train-generator", {**resolved, **objective.origin}, videos.plan.sha256, request.data)
        session = Session(identity, request.out, request.resume, accelerator)
        result = session.estimate(objective, training) if request.dry_run else session.train(objective, training)
    return {**result, **loaded, **videos.summary()}
