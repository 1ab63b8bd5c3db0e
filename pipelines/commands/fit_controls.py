"""`tokenreel fit-controls`: what steers the training clips -> coders that `tokenize-dataset` and `generate` use.

The same input gives the same bytes: codebooks are solved or found by iterations from fixed draws, on one thread.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.config import from_mapping
from tokenreel.data.clips import ControlClip, read_raw_spans
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.order import spread
from tokenreel.data.plan import DataConfig, Plan, make_plan
from tokenreel.data.video.reader import DecodeFailure, VideoProbe
from tokenreel.errors import DataError
from tokenreel.metrics.codes import CodeCounter
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.common.settings import require_section, resolve
from tokenreel.tokenizers.controls.base import DatasetInfo
from tokenreel.tokenizers.controls.controls import Controls, resolve_controls

MAX_CLIPS = 4096  # that the codebooks are fitted on, evenly over the split
MAX_FAILURES = 0.05  # share of those clips that may have no sound, as for frames that do not decode
AHEAD = 4  # clips in flight


def run(
    *,
    preset: str | None = None,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    data: str,
    out: Path,
    split: str = "train",
    workers: int = 1,
) -> dict[str, Any]:
    """Fits the coders of the section `controls:` on the clips of `split` and saves them in the new folder `out`.

    The summary has for each control how many codes are in use and how much of it is lost. Raises ConfigError, and
    DataError where the data does not have what a control is made of.
    """
    started = time.perf_counter()
    sections = resolve(preset, config, assignments, {}, "tokenizer")
    section = require_section(sections, "controls")
    clips = from_mapping(DataConfig, require_section(sections, "data"), "data")
    with DecodePool(data, workers) as pool, cpu_threads(1):
        probes = list(pool.probe(range(len(pool.source.entries))))
        plan = make_plan(pool.source, clips, probes)
        facts = DatasetInfo(plan.classes, clips.framing.frame_rate or _usual_rate(probes), pool.source.columns)
        controls = resolve_controls(section, facts)
        fresh_folder(out)
        raws, failures = _read(pool, plan, controls, spread(plan.rows(split), MAX_CLIPS))
        if not raws:
            raise DataError(f"{data} has no clip in its split {split!r}: take another --split or data.validation")
        for name in progress(controls.names, "fit", "control"):
            controls.encoder(name).fit([raw[name] for raw in raws.values()])
        described = {name: _figures(plan, controls, name, raws) for name in controls.names}
    controls.about = {"data": plan.sha256, "clips": len(raws), **described}
    controls.save_pretrained(out)
    return {
        "out": str(out),
        "clips": len(raws),
        "controls": described,
        "weights_fingerprint": controls.weights_fingerprint,
        "seconds": round(time.perf_counter() - started, 3),
        "quarantined": len(failures),
        "quarantined_clips": failures[:20],
    }


def _usual_rate(probes: Iterable[VideoProbe | DecodeFailure]) -> float | None:
    """Frames a second that most of the videos have; None where frames carry no times."""
    rates = [probe.frame_rate for probe in probes if not isinstance(probe, DecodeFailure)]
    counted = Counter(round(rate, 3) for rate in rates if rate is not None)
    return counted.most_common(1)[0][0] if counted else None


def _read(
    pool: DecodePool, plan: Plan, controls: Controls, rows: np.ndarray
) -> tuple[dict[int, ControlClip], list[str]]:
    """ControlInput controls by row, and in words why some rows have none. Raises DataError where too many have none."""
    raws: dict[int, ControlClip] = {}
    failures: list[str] = []
    spans = [range(row, row + 1) for row in rows.tolist()]
    read = read_raw_spans(plan, pool, controls.needs, spans, AHEAD)
    for span, found in zip(spans, progress(read, "read", "clip", total=len(spans)), strict=True):
        if isinstance(found, DecodeFailure):
            failures.append(f"{plan.video_id(span.start)}: {found}")
            if len(failures) > MAX_FAILURES * len(rows):
                raise DataError(
                    f"{failures[0]}. That makes {len(failures)} of {len(rows)} clips without their controls"
                )
        else:
            raws[span.start] = found[0]
    return raws, failures


def _figures(plan: Plan, controls: Controls, name: str, raws: Mapping[int, ControlClip]) -> dict[str, Any]:
    """How the codes of these clips are used, and how well they give back what they stand for."""
    encoder = controls.encoder(name)
    counter = CodeCounter(encoder.codebook_size, 1)
    sums: Counter[str] = Counter()
    for row, raw in raws.items():
        try:
            codes = controls.encode({name: raw[name]})[name]
        except DataError as error:
            raise DataError(f"{plan.video_id(row)}: {error}") from error
        counter.update(codes)
        sums.update(encoder.error_sums(raw[name], encoder.decode(codes)))
    (use,) = counter.usage()
    return {
        "codes": use.codebook_size,
        "in_use": round(use.used * use.codebook_size),
        "perplexity": round(use.perplexity, 2),
        **{key: float(f"{value:.6g}") for key, value in encoder.error_metrics(sums).items()},
    }
