"""`tokenreel fit-controls`: the controls of training clips -> encoders that `tokenize-dataset` and `generate` use.

The same input gives the same bytes: codebooks are solved for, or iterated from a fixed seed, on one thread.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tokenreel.config import from_mapping
from tokenreel.data.clips import ControlClip, read_control_inputs
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.order import evenly_spaced
from tokenreel.data.plan import Plan
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.video.probe import DecodeFailure, VideoProbe
from tokenreel.data.video.probe_store import probes_beside
from tokenreel.errors import DataError
from tokenreel.metrics.codes import CodeCounter
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.plans import Probe, plan_of, probe_videos
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.common.settings import require_section, resolve
from tokenreel.pipelines.requests.training import FitControlsRequest
from tokenreel.tokenizers.controls.base import DatasetInfo
from tokenreel.tokenizers.controls.controls import Controls, resolve_controls

MAX_CLIPS = 4096  # that the codebooks are fitted on, spread over the split
MAX_FAILURES = 0.05  # fraction of those clips that may lack a control, as for frames that do not decode
AHEAD = 4  # clips in flight


def run(request: FitControlsRequest) -> dict[str, Any]:
    """Fits the encoders of the section `controls:` on the clips of the split and saves them in the new folder `out`.

    The summary says for each control how many tokens are in use and how large the error of encoding is. Raises
    ConfigError, and DataError where the data lacks the source of a control.
    """
    started = time.perf_counter()
    sections = resolve(request.preset, request.config, request.assignments, {}, "tokenizer")
    section = require_section(sections, "controls")
    clips = from_mapping(DataConfig, require_section(sections, "data"), "data")
    with DecodePool(request.data, request.workers, probes_beside(request.out)) as pool, cpu_threads(1):
        probes = list(probe_videos(pool))
        plan = plan_of(pool, clips, probes)
        facts = DatasetInfo(plan.classes, clips.framing.frame_rate or _usual_rate(probes), pool.source.columns)
        controls = resolve_controls(section, facts)
        fresh_folder(request.out)
        inputs, failures = _read(pool, plan, controls, evenly_spaced(plan.rows(request.split), MAX_CLIPS))
        if not inputs:
            raise DataError(
                f"{request.data} has no clip in its split {request.split!r}: use another --split or data.validation"
            )
        for name in progress(controls.names, "fit", "control"):
            controls.encoder(name).fit([clip_inputs[name] for clip_inputs in inputs.values()])
        described = {name: _figures(plan, controls, name, inputs) for name in controls.names}
    controls.about = {"data": plan.sha256, "clips": len(inputs), **described}
    controls.save_pretrained(request.out)
    return {
        "out": str(request.out),
        "clips": len(inputs),
        "controls": described,
        "weights_fingerprint": controls.weights_fingerprint,
        "seconds": round(time.perf_counter() - started, 3),
        "quarantined": len(failures),
        "quarantined_clips": failures[:20],
    }


def _usual_rate(probes: Iterable[Probe | None]) -> float | None:
    """Frames per second that most of the videos have; None where frames carry no times."""
    rates = [probe.frame_rate for probe in probes if isinstance(probe, VideoProbe)]
    counted = Counter(round(rate, 3) for rate in rates if rate is not None)
    return counted.most_common(1)[0][0] if counted else None


def _read(
    pool: DecodePool, plan: Plan, controls: Controls, rows: np.ndarray
) -> tuple[dict[int, ControlClip], list[str]]:
    """Control inputs by row, and a message for each row without. Raises DataError where too many rows have none."""
    inputs: dict[int, ControlClip] = {}
    failures: list[str] = []
    spans = [range(row, row + 1) for row in rows.tolist()]
    read = read_control_inputs(plan, pool, controls.sources, spans, AHEAD)
    for span, found in zip(spans, progress(read, "read", "clip", total=len(spans)), strict=True):
        if isinstance(found, DecodeFailure):
            failures.append(f"{plan.video_id(span.start)}: {found}")
            if len(failures) > MAX_FAILURES * len(rows):
                raise DataError(
                    f"{failures[0]}. {len(failures)} of {len(rows)} clips lack their controls: use other videos"
                )
        else:
            inputs[span.start] = found[0]
    return inputs, failures


def _figures(plan: Plan, controls: Controls, name: str, inputs: Mapping[int, ControlClip]) -> dict[str, Any]:
    """How the tokens of these clips are used, and the error of encoding them."""
    encoder = controls.encoder(name)
    counter = CodeCounter(encoder.codebook_size, 1)
    sums: Counter[str] = Counter()
    for row, clip_inputs in inputs.items():
        try:
            tokens = controls.encode({name: clip_inputs[name]})[name]
        except DataError as error:
            raise DataError(f"{plan.video_id(row)}: {error}") from error
        counter.update(tokens)
        sums.update(encoder.error_sums(clip_inputs[name], encoder.decode(tokens)))
    (use,) = counter.usage()
    return {
        "codebook_size": use.codebook_size,
        "in_use": round(use.used * use.codebook_size),
        "perplexity": round(use.perplexity, 2),
        **{key: float(f"{value:.6g}") for key, value in encoder.error_metrics(sums).items()},
    }
