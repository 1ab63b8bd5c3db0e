"""The report of `tokenreel demo`: scores of held-out clips, and everything that the page shows."""

from __future__ import annotations

import platform
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.order import evenly_spaced
from tokenreel.metrics.codes import CodeCounter
from tokenreel.pipelines.common.codebook_usage import codebook_usage, count_tokens
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
from tokenreel.pipelines.requests.fields import Request, arguments_of
from tokenreel.pipelines.training.run_folder import read_metrics
from tokenreel.tokenizers.base import VideoTokenizer

R = TypeVar("R", bound=Request)


class Stages:
    """Runs stages and keeps their summaries, durations and commands."""

    def __init__(self) -> None:
        self.commands: list[str] = []  # as somebody would type them
        self.summaries: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, command: str, stage: Callable[[R], dict[str, Any]], request: R) -> None:
        self.commands.append(shlex.join(["tokenreel", command, *arguments_of(request)]))
        started = time.perf_counter()
        self.summaries[name] = stage(request)
        self.seconds[name] = time.perf_counter() - started

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


SHOWN_CLIPS = 3  # held-out clips shown beside their reconstruction


@dataclass(frozen=True)
class HeldOut:
    """Scores and reconstructions of the held-out clips."""

    scores: dict[str, Any]
    clips: int
    videos: int
    shown: list[ReconstructedClip]
    truth: np.ndarray  # uint8 [starts, T, H, W, 3], the clips that samples continue


@dataclass(frozen=True)
class SampleSettings:
    """How the demo's samples were generated."""

    given_frames: int
    starts: int  # held-out clips that were continued, in turn
    top_k: int


def write_demo_report(
    out: Path, source: str, stages: Stages, settings: SampleSettings, choice_bits: float | None
) -> dict[str, Any]:
    """Writes `out/report.html` and returns its scores.

    `choice_bits`: bits/code of the random choices in synthetic Tabletop data, None for other data.
    """
    tokenizer = VideoTokenizer.from_pretrained(str(out / "tokenizer")).freeze()
    cache, samples = TokenCache.open(out / "tokens.zarr"), TokenCache.open(out / "samples.zarr")
    held_out = score_held_out(tokenizer, source, evenly_spaced(cache.rows("validation"), settings.starts))
    samples_decoded = decode_tokens(tokenizer, samples.read(samples.rows()))
    prior = {name: value for name, value in stages.summaries["prior"].items() if name.startswith("bits_per_code")}
    prior |= {} if choice_bits is None else {"choice_bits_per_code": round(choice_bits, 4)}
    level = tokenizer.spec.levels[0].name
    counted, counters = count_tokens(cache)
    page = RunReport(
        title="tokenreel: a run from end to end",
        lead=f"Videos from {source}; a tokenizer and a prior trained on them; its samples, decoded.",
        facts=_facts(stages),
        frame_rate=frame_rate_of(tokenizer),
        originals=np.stack([clip.original for clip in held_out.shown]),
        reconstructions=np.stack([clip.decoded for clip in held_out.shown]),
        codes=np.stack([clip.tokens[level] for clip in held_out.shown]),
        code_counts=counters[level].counts,
        tokenizer_curves=_tokenizer_curves(out / "tokenizer"),
        prior_curves=_prior_curves(out / "prior"),
        given_frames=settings.given_frames,
        top_k=settings.top_k,
        truth=held_out.truth,
        samples=_group_by_start(samples_decoded, len(held_out.truth)),
        scores=_score_rows(
            held_out.scores, prior, stages.summaries["prior"]["held_out_clips"], counters[level], counted
        ),
        scored=f"{held_out.clips} held-out clips ({held_out.videos} of the videos)",
        commands="\n".join(("export OMP_NUM_THREADS=1", *stages.commands)),
    )
    write_report(out / "report.html", page)
    write_picture(out / "samples.png", page)
    usage = {"codes_counted_in_clips": counted, "codebook_usage": codebook_usage(counters)}
    counts = {"held_out_clips": held_out.clips, "held_out_videos": held_out.videos}
    return {"report": str(out / "report.html"), **held_out.scores, **prior, **usage, **counts}


def score_held_out(tokenizer: VideoTokenizer, source: str, starts: np.ndarray) -> HeldOut:
    """Reconstructs every held-out clip of `source`. `starts`: rows of its plan, which are those of its cache."""
    with DecodePool(source, workers=1) as pool:
        plan = plan_of(pool, data_config_of(tokenizer))
        scorer, shown = Scorer(tokenizer, mean_image_of(plan, pool)), list[ReconstructedClip]()
        rows = plan.rows("validation")
        shown_rows = set(evenly_spaced(rows, SHOWN_CLIPS).tolist())
        for clip in reconstruct(tokenizer, plan, pool, rows):
            scorer.update(clip)
            shown += [clip] if clip.row in shown_rows else []
        truth = np.stack([clip for _, clip in read_clips(plan, pool, starts)])
    return HeldOut(scorer.compute(), len(rows), len(set(plan.video[rows].tolist())), shown, truth)


def _group_by_start(samples: np.ndarray, starts: int) -> np.ndarray:
    """Samples [n, ...], which continue `starts` clips in turn -> [starts, n // starts, ...]."""
    rounds = len(samples) // starts
    return samples[: rounds * starts].reshape(rounds, starts, *samples.shape[1:]).swapaxes(0, 1)


def _facts(stages: Stages) -> dict[str, str]:
    durations = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.seconds.items())
    tokens = stages.summaries["tokens"]
    parameters = {name: stages.summaries[name]["parameters"] for name in ("tokenizer", "prior")}
    return {
        "time": f"{stages.total_seconds / 60:.1f} minutes ({durations})",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "parameters": ", ".join(f"{name} {count:,}" for name, count in parameters.items()),
        "cache": f"{tokens['rows']:,} clips, {tokens['tokens']:,} tokens, id {tokens['cache_id'][:16]}",
    }


def _curves(run: Path, names: Mapping[str, str]) -> dict[str, Line]:
    """Lines by label from a run's metrics.jsonl; `names`: metric -> label."""
    lines = read_metrics(run / "metrics.jsonl")
    curves = {label: [(line["step"], line[name]) for line in lines if name in line] for name, label in names.items()}
    return {label: ([x for x, _ in points], [y for _, y in points]) for label, points in curves.items() if points}


def _tokenizer_curves(run: Path) -> dict[str, Line]:
    """Mean squared error of pixels in [0, 1], in training and on held-out clips."""
    curves = _curves(run, {"train/reconstruction": "training", "validation/mse": "held out"})
    steps, errors = curves["training"]
    return curves | {"training": (steps, [error / 4 for error in errors])}  # the model's pixels are in [-1, 1]


def _prior_curves(run: Path) -> dict[str, Line]:
    """bits/code in training and on held-out clips; the counted baselines as horizontal lines."""
    curves = _curves(run, {"train/bits_per_code": "training", "validation/bits_per_code": "held out"})
    steps, _ = curves["training"]
    counted = {
        "validation/bits_per_code_temporal_bigram": "temporal bigram prior",
        "validation/bits_per_code_unigram": "unigram prior",
    }
    for name, (_, values) in _curves(run, counted).items():
        curves[name] = ([steps[0], steps[-1]], [values[-1]] * 2)
    return curves


def _score_rows(
    pixels: Mapping[str, Any], prior: Mapping[str, float], prior_clips: int, codes: CodeCounter, counted: int
) -> list[tuple[str, str, str]]:
    """`prior_clips`: held-out clips that bits/code are of. `codes`: the tokens of `counted` clips of the cache, because
    few held-out clips would use few codes.
    """
    rows = [
        ("PSNR", f"{pixels['psnr']:.2f} dB", "of the reconstruction, mean over frames"),
        ("SSIM", f"{pixels['ssim']:.4f}", "of the reconstruction"),
        ("PSNR of moving pixels", f"{pixels['psnr_moving']:.2f} dB", "pixels that change within a clip"),
        (
            "PSNR of the mean image there",
            f"{pixels['psnr_moving_mean_image']:.2f} dB",
            "the scene without motion",
        ),
        *(
            (
                f"codebook {q} in use",
                f"{use.used:.1%}",
                f"perplexity {use.perplexity:.1f}, in {counted} clips of all splits",
            )
            for q, use in enumerate(codes.usage())
        ),
    ]
    meanings = {
        "bits_per_code": ("prior", f"of tokens that are not given, in {prior_clips} held-out clips"),
        "bits_per_code_temporal_bigram": ("temporal bigram prior", "p(token | token here one frame before)"),
        "bits_per_code_unigram": ("unigram prior", "p(token)"),
        "choice_bits_per_code": (
            "choices in the data",
            "what a perfect prior needs at most, apart from the hidden first state",
        ),
    }
    for key, (name, meaning) in meanings.items():
        if key in prior:
            rows.append((f"bits/code, {name}", f"{prior[key]:.3f}", meaning))
    return rows
