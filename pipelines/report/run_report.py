"""The report of a whole run: what went in, what the tokenizer keeps of it, what the prior makes of it, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from tokenreel.pipelines.report.charts import Line, curves, sorted_frequencies
from tokenreel.pipelines.report.page import Page
from tokenreel.pipelines.report.pictures import below, beside, change_maps, code_maps, enlarge, film_strip

TILE = 128  # pixels, about the height at which a clip is shown
DIFFERENCE_GAIN = 4  # differences are shown this many times as large as they are


@dataclass(frozen=True)
class RunReport:
    """Everything the page shows. Clips are held-out ones, uint8 [n, T, H, W, 3]; codes [n, t, h, w, q]."""

    title: str
    lead: str
    facts: Mapping[str, str]  # what was run, and how long each stage took
    frame_rate: float
    originals: np.ndarray
    reconstructions: np.ndarray
    codes: np.ndarray
    code_counts: np.ndarray  # [q, K] over all held-out clips
    tokenizer_curves: Mapping[str, Line]
    prior_curves: Mapping[str, Line]
    given_frames: int
    top_k: int  # codes that each draw was among
    truth: np.ndarray  # [m, T, H, W, 3] what really followed the given frames
    samples: np.ndarray  # [m, s, T, H, W, 3]
    scores: Sequence[tuple[str, str, str]]  # name, value, what it means
    commands: str


def write_report(path: Path, run: RunReport) -> None:
    """Writes the page, one file that needs nothing else."""
    page = Page(run.title, run.lead)
    page.facts(run.facts)
    _add_scores(page, run)
    _add_samples(page, run)
    _add_reconstructions(page, run)
    _add_codes(page, run)
    _add_curves(page, run)
    page.section("The same by hand", "Each stage is a command of its own.")
    page.listing(run.commands)
    page.write(path)


def write_picture(path: Path, run: RunReport) -> None:
    """The sampled videos alone, as an animated PNG."""
    frames = _sampled(run)
    imageio.imwrite(path, frames, plugin="pillow", duration=1000 / run.frame_rate, loop=0)


def _add_scores(page: Page, run: RunReport) -> None:
    page.section("Scores", "All on held-out videos: neither the tokenizer nor the prior has seen any of them.")
    page.table(("score", "value", "how to read it"), run.scores)


def _add_samples(page: Page, run: RunReport) -> None:
    page.section(
        "Sampled videos",
        f"{run.given_frames} given frame{'s' * (run.given_frames > 1)}, the rest drawn code by code from the prior, "
        f"each among the {run.top_k} likeliest, and decoded. "
        "Left in each row: what really happened; beside it: different draws from the same start.",
    )
    page.moving(_sampled(run), run.frame_rate, "truth | samples")


def _sampled(run: RunReport) -> np.ndarray:
    """What followed each start, and beside it the samples, uint8 [T, H, W, 3]."""
    rows = [beside([_shown(truth), *map(_shown, drawn)]) for truth, drawn in zip(run.truth, run.samples, strict=True)]
    return below(rows)


def _add_reconstructions(page: Page, run: RunReport) -> None:
    page.section("Reconstructions", "Video to codes and back. What is lost here, no prior can bring back.")
    rows = []
    for original, decoded in zip(run.originals, run.reconstructions, strict=True):
        difference = np.abs(original.astype(np.int16) - decoded) * DIFFERENCE_GAIN
        rows.append(beside([_shown(original), _shown(decoded), _shown(difference.clip(0, 255).astype(np.uint8))]))
    page.moving(below(rows), run.frame_rate, f"original | reconstruction | difference x {DIFFERENCE_GAIN}")


def _add_codes(page: Page, run: RunReport) -> None:
    page.section(
        "Codes",
        "One held-out clip from left to right, and below it, for each codebook: the codes, a colour for each, and in "
        "yellow the positions whose code changed since the frame before (as in LVT, appendix B).",
    )
    every = max(1, len(run.originals[0]) // 8)
    clip, codes = run.originals[0][::every], run.codes[0][::every]
    page.still(film_strip(enlarge(clip, max(1, 96 // clip.shape[1]))), "the clip")
    for q, (drawn, changed) in enumerate(zip(code_maps(codes, 96), change_maps(run.codes[0], 96), strict=True)):
        page.still(film_strip(drawn), f"codebook {q}: codes")
        page.still(film_strip(changed, every), f"codebook {q}: changed since the frame before")
    used = [int((row > 0).sum()) for row in run.code_counts]
    caption = (
        f"codes by how often they are used; in use: {', '.join(f'{n} of {run.code_counts.shape[1]}' for n in used)}"
    )
    page.chart(sorted_frequencies(run.code_counts, "codes, most frequent first"), caption)


def _add_curves(page: Page, run: RunReport) -> None:
    page.section("Training", "Lines are what the run folders' metrics.jsonl hold.")
    page.chart(curves(run.tokenizer_curves, "step", "squared error", log=True), "tokenizer")
    page.chart(curves(run.prior_curves, "step", "bits / code"), "prior")


def _shown(frames: np.ndarray) -> np.ndarray:
    return enlarge(frames, max(1, TILE // frames.shape[1]))
