"""The report of a complete run: scores, samples, reconstructions, tokens and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from tokenreel.pipelines.report.charts import Line, curves, sorted_frequencies
from tokenreel.pipelines.report.page import Page
from tokenreel.pipelines.report.pictures import below, beside, change_maps, code_maps, enlarge, film_strip

TILE = 128  # pixels, about the height of a clip as shown
DIFFERENCE_GAIN = 4  # contrast of differences


@dataclass(frozen=True)
class RunReport:
    """Everything that the page shows. Clips are held-out ones, uint8 [n, T, H, W, 3]; codes are [n, t, h, w, q]."""

    title: str
    lead: str
    facts: Mapping[str, str]  # such as sizes and the duration of each stage
    frame_rate: float
    originals: np.ndarray
    reconstructions: np.ndarray
    codes: np.ndarray
    code_counts: np.ndarray  # [q, K] over the clips of the cache
    tokenizer_curves: Mapping[str, Line]
    prior_curves: Mapping[str, Line]
    given_frames: int
    top_k: int
    truth: np.ndarray  # [m, T, H, W, 3], the clips that samples continue
    samples: np.ndarray  # [m, s, T, H, W, 3]
    scores: Sequence[tuple[str, str, str]]  # name, value, what it means
    scored: str  # of how many clips of how many videos the scores are
    commands: str


def write_report(path: Path, run: RunReport) -> None:
    """Writes the page as one self-contained file."""
    page = Page(run.title, run.lead)
    page.facts(run.facts)
    _add_scores(page, run)
    _add_samples(page, run)
    _add_reconstructions(page, run)
    _add_codes(page, run)
    _add_curves(page, run)
    page.section("Run it yourself", "Each stage is a command.")
    page.listing(run.commands)
    page.write(path)


def write_picture(path: Path, run: RunReport) -> None:
    """Writes the sampled videos as an animated PNG."""
    frames = _sampled(run)
    imageio.imwrite(path, frames, plugin="pillow", duration=1000 / run.frame_rate, loop=0)


def _add_scores(page: Page, run: RunReport) -> None:
    page.section("Scores", f"Of {run.scored}, which neither the tokenizer nor the prior was trained on.")
    page.table(("score", "value", "meaning"), run.scores)


def _add_samples(page: Page, run: RunReport) -> None:
    page.section(
        "Sampled videos",
        f"{run.given_frames} given frame{'s' * (run.given_frames > 1)}, the rest sampled token by token from the prior "
        f"(top-k {run.top_k}) and decoded. In each row: the original video on the left, then different samples that "
        "continue it.",
    )
    page.moving(_sampled(run), run.frame_rate, "truth | samples")


def _sampled(run: RunReport) -> np.ndarray:
    """Each original clip, and beside it the samples that continue it, uint8 [T, H, W, 3]."""
    pairs = zip(run.truth, run.samples, strict=True)
    rows = [beside([_enlarged(truth), *map(_enlarged, samples)]) for truth, samples in pairs]
    return below(rows)


def _add_reconstructions(page: Page, run: RunReport) -> None:
    page.section("Reconstructions", "Held-out clips, encoded and decoded. No prior can recover what is lost here.")
    rows = []
    for original, decoded in zip(run.originals, run.reconstructions, strict=True):
        difference = np.abs(original.astype(np.int16) - decoded) * DIFFERENCE_GAIN
        parts = (original, decoded, difference.clip(0, 255).astype(np.uint8))
        rows.append(beside(list(map(_enlarged, parts))))
    page.moving(below(rows), run.frame_rate, f"original | reconstruction | difference x {DIFFERENCE_GAIN}")


def _add_codes(page: Page, run: RunReport) -> None:
    page.section(
        "Tokens",
        "One held-out clip from left to right. Below, for each codebook: a colour for each code, and in yellow the "
        "positions whose token differs from the previous frame (as in LVT, appendix B).",
    )
    every = max(1, len(run.originals[0]) // 8)
    clip, codes = run.originals[0][::every], run.codes[0][::every]
    page.still(film_strip(enlarge(clip, max(1, 96 // clip.shape[1]))), "the clip")
    for q, (coloured, changed) in enumerate(zip(code_maps(codes, 96), change_maps(run.codes[0], 96), strict=True)):
        page.still(film_strip(coloured), f"codebook {q}: codes")
        page.still(film_strip(changed, every), f"codebook {q}: changed since the previous frame")
    used = [int((row > 0).sum()) for row in run.code_counts]
    caption = f"frequencies of codes, sorted; used: {', '.join(f'{n} of {run.code_counts.shape[1]}' for n in used)}"
    page.chart(sorted_frequencies(run.code_counts, "codes, most frequent first"), caption)


def _add_curves(page: Page, run: RunReport) -> None:
    page.section("Training", "From metrics.jsonl of the run folders.")
    page.chart(curves(run.tokenizer_curves, "step", "squared error", log=True), "tokenizer")
    page.chart(curves(run.prior_curves, "step", "bits / code"), "prior")


def _enlarged(frames: np.ndarray) -> np.ndarray:
    return enlarge(frames, max(1, TILE // frames.shape[1]))
