"""`tokenreel sample --generator`: noise, and conditions of the clips of a data set -> videos and samples.json."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.order import SampleOrder
from tokenreel.data.plan import Plan
from tokenreel.data.sample_list import SampledVideo, SampleList
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.errors import ConfigError, DataError
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.decoding.reconstruction import data_config_of
from tokenreel.pipelines.generators.conditions import ClassesInTurn, ClipConditions, chosen_classes
from tokenreel.pipelines.generators.loading import LoadedGenerator, load_generator
from tokenreel.pipelines.generators.writing import complete_folder, file_name, write_samples
from tokenreel.pipelines.requests.generation import SampleRequest

Source = ClassesInTurn | ClipConditions
ORDER_SEED = 0  # of the clips, whatever the seed of the samples, so that seeds are compared on the same clips


def sample_videos(request: SampleRequest) -> dict[str, Any]:
    """Writes `num` videos and samples.json into `out`. Sample i depends on its number, the seed, the truncation and its
    conditions only: on no other sample, and neither on `num` nor on `batch`.

    Raises HubError if the generator is not found, ConfigError for conditions that it lacks or does not take,
    DataError where the split has no clip or a clip does not decode.
    """
    generator = load_generator(request, request.device, request.revision)
    spec = generator.spec
    _check_conditions(request, spec)
    named = chosen_classes(spec, request.classes)
    with complete_folder(request.out) as folder:
        if request.data is None:
            every = range(len(spec.classes))
            generator.fit_statistics(ClassesInTurn(spec, every))
            return _sample(request, generator, ClassesInTurn(spec, named or every), None, folder)
        with DecodePool(request.data, workers=1) as pool:
            plan = plan_of(pool, data_config_of(generator.model))
            rows, classes = _rows(request, plan), ClassesInTurn(spec, named)
            generator.fit_statistics(ClipConditions(spec, plan, pool, rows, classes))
            source = ClipConditions(spec, plan, pool, rows[: request.num_clips], classes)
            return _sample(request, generator, source, plan, folder)


def _check_conditions(request: SampleRequest, spec: GeneratorSpec) -> None:
    frames = spec.given_frames or spec.end_frame
    if frames and request.data is None:
        raise ConfigError(
            f"--data must be given: this generator makes {spec.summary}, and takes the frames from clips of a data set"
        )
    if request.data is not None and not frames:
        if not spec.classes:
            raise ConfigError(f"--data {request.data}: this generator makes {spec.summary}, without clips: omit it")
        if request.classes:
            raise ConfigError("--class is not used with --data, whose clips state the classes: omit one of them")


def _rows(request: SampleRequest, plan: Plan) -> np.ndarray:
    """The clips of the split in a fixed order, so that the first ones are of all videos and classes."""
    rows = plan.rows(request.split)
    if not len(rows):
        raise DataError(f"--split {request.split}: {request.data} has no such clip among its {len(plan)}")
    return SampleOrder(rows, ORDER_SEED).rows(0, len(rows))


def _sample(
    request: SampleRequest, generator: LoadedGenerator, source: Source, plan: Plan | None, folder: Path
) -> dict[str, Any]:
    started = time.perf_counter()

    def inputs(numbers: np.ndarray) -> tuple[Tensor, Conditions]:
        return generator.noise(request.seed, numbers), source.of(numbers)

    for _ in write_samples(generator, inputs, request.num, request.batch, folder, request.format):
        pass
    samples = SampleList(
        generator.spec,
        _provenance(request, generator, plan),
        generator.spec.classes or (() if plan is None else plan.classes),
        tuple(_describe(request, source, plan)),
    )
    samples.write(folder)
    seconds = time.perf_counter() - started
    return {
        "out": str(request.out),
        "samples": request.num,
        "frames": generator.spec.frames,
        "clips": len({sample.row for sample in samples.samples}) if plan else 0,
        "truncation": generator.truncation,
        "statistics": generator.statistics,
        "seconds": round(seconds, 1),
        "videos_per_second": round(request.num / seconds, 1),
    }


def _provenance(request: SampleRequest, generator: LoadedGenerator, plan: Plan | None) -> dict[str, Any]:
    spec = generator.spec
    of_clips = {} if plan is None else {"data": request.data, "split": request.split, "plan_sha256": plan.sha256}
    return {
        "generator": generator.path,
        "weights_fingerprint": generator.weights_fingerprint,
        "truncation": generator.truncation,
        "statistics": generator.statistics,
        "given_frames": spec.given_frames,
        "given_controls": [*["class"] * bool(spec.classes), *["end"] * spec.end_frame],
        **of_clips,
    }


def _describe(request: SampleRequest, source: Source, plan: Plan | None) -> Iterator[SampledVideo]:
    numbers = np.arange(request.num)
    rows = source.rows(numbers).tolist() if isinstance(source, ClipConditions) else [None] * request.num
    for number, label, row in zip(numbers.tolist(), source.labels(numbers), rows, strict=True):
        clip = {} if plan is None else {"row": row, "video": plan.video_id(row), "first_frame": int(plan.first[row])}
        name = file_name(number, request.format)
        yield SampledVideo(name, f"sample-{number:06d}", request.seed, number, label, **clip)
