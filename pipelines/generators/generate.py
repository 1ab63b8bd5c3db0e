"""`tokenreel generate --generator`: noise, given frames and a class -> videos and a contact sheet."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.video.writer import write_video
from tokenreel.decoders.generators.conditions import class_weights
from tokenreel.errors import ConfigError, DataError
from tokenreel.pipelines.decoding.true_frames import FileFrames
from tokenreel.pipelines.generation.given_frames import end_frame, first_frames
from tokenreel.pipelines.generators.conditions import ClassesInTurn, GivenFrames, chosen_classes
from tokenreel.pipelines.generators.loading import LoadedGenerator, load_generator
from tokenreel.pipelines.generators.writing import Inputs, complete_folder, write_samples
from tokenreel.pipelines.report.pictures import below, film_strip
from tokenreel.pipelines.requests.generation import GenerateRequest

SHEET = "contact_sheet.png"  # a row of frames for each of the first samples
SHEET_ROWS, SHEET_FRAMES = 16, 16  # at most
SHAPE_TOLERANCE = 0.02  # of width by height, as sizes of videos are rounded


def generate_videos(request: GenerateRequest) -> dict[str, Any]:
    """Writes `num` videos, or `steps` between two classes or seeds, and a contact sheet into `out`.

    Raises HubError if the generator is not found, ConfigError for conditions that it lacks or does not take,
    DataError for frames that cannot be read, are too few, or of different shapes.
    """
    generator = load_generator(request, request.device)
    spec = generator.spec
    names = [] if request.class_name is None else [request.class_name]
    indices = chosen_classes(spec, names) or list(range(len(spec.classes)))
    _check_frames(request, spec)
    inputs = _inputs(request, generator, _given_frames(request, spec, ClassesInTurn(spec, indices)))
    between = request.between_classes or request.between_seeds
    count = request.num if between is None else request.steps
    started = time.perf_counter()
    with complete_folder(request.out) as folder:
        if not spec.given_frames and not spec.end_frame:  # else there are no clips to compute them from
            generator.fit_statistics(ClassesInTurn(spec, range(len(spec.classes))))
        strips: list[np.ndarray] = []
        for videos in write_samples(generator, inputs, count, request.batch, folder, request.format):
            strips += [film_strip(video, -(-spec.frames // SHEET_FRAMES)) for video in videos]
            del strips[SHEET_ROWS:]
        write_video(folder / SHEET, below([strip[None] for strip in strips]), 1.0)
    return {
        "out": str(request.out),
        "samples": count,
        "frames": spec.frames,
        "given_frames": spec.given_frames,
        "classes": [] if request.between_classes else [spec.classes[i] for i in indices],
        "between": [] if between is None else list(between),
        "truncation": generator.truncation,
        "statistics": generator.statistics,
        "contact_sheet": SHEET,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _check_frames(request: GenerateRequest, spec: GeneratorSpec) -> None:
    """Raises ConfigError unless just the files that the generator needs are given."""
    needed = {"--video": (request.video, spec.given_frames > 0), "--end": (request.end, spec.end_frame)}
    for flag, (given, needs) in needed.items():
        if needs and given is None:
            both = " as well" if spec.given_frames and spec.end_frame else ""
            raise ConfigError(f"{flag} must be given{both}: this generator makes {spec.summary}")
        if given is not None and not needs:
            raise ConfigError(f"{flag} {given}: this generator makes {spec.summary}: omit it")


def _given_frames(request: GenerateRequest, spec: GeneratorSpec, classes: ClassesInTurn) -> GivenFrames:
    """Raises DataError where the first frames and the end frame are of different shapes, and so would be cropped
    differently.
    """
    first = first_frames(spec.framing, request.video, spec.given_frames) if spec.given_frames else None
    end = None if request.end is None else end_frame(spec.framing, request.end, spec.frames)
    if first is not None and end is not None and abs(_shape(first) / _shape(end) - 1) > SHAPE_TOLERANCE:
        raise DataError(
            f"--video {request.video} has frames of {_size(first)}, and --end {request.end} of {_size(end)}: give both "
            "in one shape, as they are cropped and resized alike"
        )
    return GivenFrames(classes, None if first is None else first.frames, None if end is None else end.frames)


def _shape(found: FileFrames) -> float:
    """The longer side by the shorter one, as a video's sides are those before it is turned for display."""
    return max(found.size) / min(found.size)


def _size(found: FileFrames) -> str:
    height, width = found.size
    return f"{width}x{height}"


def _inputs(request: GenerateRequest, generator: LoadedGenerator, source: GivenFrames) -> Inputs:
    spec = generator.spec
    if request.between_classes is not None:
        ends = chosen_classes(spec, request.between_classes, "--between-classes")
        first, last = class_weights(ends, spec)
        weights = _between(first, last, request.steps)
        return lambda numbers: (
            generator.noise(request.seed, np.zeros_like(numbers)),
            replace(source.of(numbers), classes=weights[numbers]),
        )
    if request.between_seeds is not None:
        if spec.classes and request.class_name is None:
            raise ConfigError("--between-seeds needs --class NAME, the class of all its videos")
        start, stop = (generator.noise(seed, np.zeros(1, np.int64))[0] for seed in request.between_seeds)
        noise = _between(start, stop, request.steps)
        return lambda numbers: (noise[numbers], source.of(numbers))
    return lambda numbers: (generator.noise(request.seed, numbers), source.of(numbers))


def _between(start: Tensor, stop: Tensor, steps: int) -> Tensor:
    """[steps, n]: from `start` [n] to `stop` [n] in equal steps, both included."""
    return torch.lerp(start, stop, torch.linspace(0, 1, steps)[:, None])
