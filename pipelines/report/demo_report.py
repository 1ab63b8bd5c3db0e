"""The report of `tokenreel demo`: scores the held-out clips and collects what the page shows."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.order import spread
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.decoding.reconstruction import (
    ReconstructedClip,
    Scorer,
    data_config_of,
    mean_image_of,
    read_clips,
    reconstruct,
)
from tokenreel.pipelines.decoding.tokens_to_video import decode_tokens, frame_rate_of
from tokenreel.pipelines.report.charts import Line
from tokenreel.pipelines.report.run_report import RunReport, write_picture, write_report
from tokenreel.pipelines.requests.fields import Request
from tokenreel.pipelines.training.run_folder import read_metrics
from tokenreel.tokenizers.base import VideoTokenizer

R = TypeVar("R", bound=Request)


class Stages:
    """Runs stages one after the other and keeps their summaries."""

    def __init__(self) -> None:
        self.summaries: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, stage: Callable[[R], dict[str, Any]], request: R) -> None:
        started = time.perf_counter()
        self.summaries[name] = stage(request)
        self.seconds[name] = time.perf_counter() - started

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


PICTURED = 3  # held-out clips shown beside their reconstruction


@dataclass(frozen=True)
class HeldOut:
    """What the held-out clips say of a tokenizer."""

    scores: dict[str, Any]
    code_counts: np.ndarray  # [q, K]
    pictured: list[ReconstructedClip]
    truth: np.ndarray  # uint8 [starts, T, H, W, 3], the clips that samples go on from


@dataclass(frozen=True)
class Sampled:
    """How the demo's samples were drawn."""

    given_frames: int
    starts: int  # held-out clips that were gone on with, in turn
    top_k: int


def write_demo_report(
    out: Path, source: str, stages: Stages, sampled: Sampled, choice_bits: float | None
) -> dict[str, Any]:
    """Writes `out/report.html` and returns its scores.

    `choice_bits`: bits a code that the embedded data's own choices hold, None for other data.
    """
    tokenizer = VideoTokenizer.from_pretrained(str(out / "tokenizer")).freeze()
    cache, samples = TokenCache.open(out / "tokens.zarr"), TokenCache.open(out / "samples.zarr")
    held_out = score_held_out(tokenizer, source, spread(cache.rows("validation"), sampled.starts))
    drawn = decode_tokens(tokenizer, samples.read(samples.rows()))
    prior = {name: value for name, value in stages.summaries["prior"].items() if name.startswith("bits_per_code")}
    prior |= {} if choice_bits is None else {"choice_bits_per_code": round(choice_bits, 4)}
    level = tokenizer.spec.levels[0].name
    page = RunReport(
        title="tokenreel: a run from end to end",
        lead=f"Videos from {source}; a tokenizer and a prior trained on them; what the prior imagines, decoded.",
        facts=_facts(stages),
        frame_rate=frame_rate_of(tokenizer),
        originals=np.stack([clip.original for clip in held_out.pictured]),
        reconstructions=np.stack([clip.decoded for clip in held_out.pictured]),
        codes=np.stack([clip.tokens[level] for clip in held_out.pictured]),
        code_counts=held_out.code_counts,
        tokenizer_curves=_tokenizer_curves(out / "tokenizer"),
        prior_curves=_prior_curves(out / "prior"),
        given_frames=sampled.given_frames,
        top_k=sampled.top_k,
        truth=held_out.truth,
        samples=_by_start(drawn, len(held_out.truth)),
        scores=_score_rows(held_out.scores, prior),
        commands=_commands(source),
    )
    write_report(out / "report.html", page)
    write_picture(out / "samples.png", page)
    return {"report": str(out / "report.html"), **held_out.scores, **prior}


def score_held_out(tokenizer: VideoTokenizer, source: str, starts: np.ndarray) -> HeldOut:
    """Reconstructs every held-out clip of `source`. Rows of its plan are those of the cache made from it."""
    with DecodePool(source, workers=1) as pool:
        plan = plan_of(pool, data_config_of(tokenizer))
        scorer, pictured = Scorer(tokenizer, mean_image_of(plan, pool)), list[ReconstructedClip]()
        rows = plan.rows("validation")
        chosen = set(spread(rows, PICTURED).tolist())
        for clip in reconstruct(tokenizer, plan, pool, rows):
            scorer.update(clip)
            pictured += [clip] if clip.row in chosen else []
        truth = np.stack([clip for _, clip in read_clips(plan, pool, starts)])
    level = tokenizer.spec.levels[0].name
    return HeldOut(scorer.compute(), scorer.counters[level].counts, pictured, truth)


def _by_start(drawn: np.ndarray, starts: int) -> np.ndarray:
    """Samples [n, ...], which went on from `starts` clips in turn -> [starts, n // starts, ...]."""
    rounds = len(drawn) // starts
    return drawn[: rounds * starts].reshape(rounds, starts, *drawn.shape[1:]).swapaxes(0, 1)


def _facts(stages: Stages) -> dict[str, str]:
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.seconds.items())
    tokens, parameters = (
        stages.summaries["tokens"],
        {n: stages.summaries[n]["parameters"] for n in ("tokenizer", "prior")},
    )
    return {
        "time": f"{stages.total_seconds / 60:.1f} minutes ({took})",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "parameters": ", ".join(f"{name} {count:,}" for name, count in parameters.items()),
        "cache": f"{tokens['rows']:,} clips, {tokens['tokens']:,} codes, id {tokens['cache_id'][:16]}",
    }


def _curves(run: Path, names: Mapping[str, str]) -> dict[str, Line]:
    """Values by name out of a run's metrics.jsonl; `names`: as they are there -> as they are shown."""
    lines = read_metrics(run / "metrics.jsonl")
    curves = {shown: [(line["step"], line[name]) for line in lines if name in line] for name, shown in names.items()}
    return {shown: ([x for x, _ in points], [y for _, y in points]) for shown, points in curves.items() if points}


def _tokenizer_curves(run: Path) -> dict[str, Line]:
    """Mean squared error in training and on held-out clips, of pixels in [0, 1]."""
    curves = _curves(run, {"train/reconstruction": "training", "validation/mse": "held out"})
    steps, errors = curves["training"]
    return curves | {"training": (steps, [error / 4 for error in errors])}  # the model's pixels are in [-1, 1]


def _prior_curves(run: Path) -> dict[str, Line]:
    """Bits a code in training and on held-out clips; what counting achieves as level lines."""
    curves = _curves(run, {"train/nats_per_code": "training", "validation/bits_per_code": "held out"})
    steps, nats = curves["training"]
    curves["training"] = (steps, [value / np.log(2) for value in nats])
    counted = {
        "validation/bits_per_code_temporal_bigram": "previous-step table",
        "validation/bits_per_code_unigram": "frequency",
    }
    for name, (_, values) in _curves(run, counted).items():
        curves[name] = ([steps[0], steps[-1]], [values[-1]] * 2)
    return curves


def _score_rows(pixels: Mapping[str, Any], prior: Mapping[str, float]) -> list[tuple[str, str, str]]:
    codes = next(iter(pixels["codebook_usage"].values()))
    rows = [
        ("PSNR", f"{pixels['psnr']:.2f} dB", "of the reconstruction, mean over frames"),
        ("SSIM", f"{pixels['ssim']:.4f}", "of the reconstruction"),
        ("PSNR where something moves", f"{pixels['psnr_moving']:.2f} dB", "pixels that change within a clip"),
        ("the mean image there", f"{pixels['psnr_moving_mean_image']:.2f} dB", "knows the scene and no video"),
        *(
            (f"codebook {q} in use", f"{use['used']:.1%}", f"perplexity {use['perplexity']}")
            for q, use in enumerate(codes)
        ),
    ]
    meanings = {
        "bits_per_code": ("prior", "bits for a code that is not given"),
        "bits_per_code_temporal_bigram": (
            "table of the frame before",
            "p(code | code at this place a frame before)",
        ),
        "bits_per_code_unigram": ("frequency of codes", "p(code)"),
        "choice_bits_per_code": (
            "choices in the data",
            "what a perfect prior needs at most, up to the hidden first state",
        ),
    }
    for key, (name, meaning) in meanings.items():
        if key in prior:
            rows.append((f"bits/code, {name}", f"{prior[key]:.3f}", meaning))
    return rows


def _commands(source: str) -> str:
    return "\n".join(
        (
            f"tokenreel train-tokenizer --preset gpt-tabletop-tiny --data {source} --out tokenizer",
            f"tokenreel tokenize-dataset --tokenizer tokenizer --data {source} --out tokens.zarr",
            "tokenreel train-prior --preset gpt-tabletop-tiny --cache tokens.zarr --out prior",
            "tokenreel sample --prior prior --cache tokens.zarr --given-frames 1 --num 16 --top-k 5 --out samples.zarr",
            "tokenreel decode --tokens samples.zarr --tokenizer tokenizer --out samples",
        )
    )
