"""Tables 1 to 3 and figure 3 of "From here to there" (arXiv 1905.10240) at a small size on Tabletop, as Markdown.

    python -m tokenreel.benchmarks.papers.inbetweening.tables --out inbetween [--seeds 1 2 3] [--steps 3000] [--jobs 2]
    python -m tokenreel.benchmarks.papers.inbetweening.tables --out inbetween --samples "CCVS, point to point=FOLDER"
    python -m tokenreel.benchmarks.papers.inbetweening.tables --out inbetween-quick --quick --seeds 0

Generators of the preset inbetween-tabletop-tiny, 16 frames of 32 x 32, the first and the last given, all trained alike:
full, without fusion and naive, and the full one with the other reading of the paper's gradient penalty. FOLDER holds
another system's samples for the same pairs (see `token_samples`). OUT keeps all runs: the same command continues an
interrupted one, or prints the tables of a complete one. Use a new OUT after a change of the code.

FVD is not measured: its network is not at hand. Instead, distances in features of random networks, of single frames and
of whole clips (`metrics/distances.py`), 1 being the variance of the true clips. PSNR and SSIM favour what is blurred
between possible futures, as a cross-fade is. Mean and standard deviation over seeds; 95 % intervals over pairs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tokenreel.benchmarks.papers.generators import Run, Setup, Sizes, held_out
from tokenreel.benchmarks.papers.grid import finish
from tokenreel.benchmarks.papers.inbetweening.runs import (
    CROSS_FADE,
    NEAREST,
    OTHER_TRUE,
    Baseline,
    Generator,
    OtherSystem,
    Sampled,
)
from tokenreel.benchmarks.papers.lvt.tables import header, mean, row
from tokenreel.metrics.diversity import mean_clip
from tokenreel.pipelines.report.pictures import below, enlarge, film_strip

QUICK = Sizes(steps=2, videos=20, frames=16, pixels=32, clips=6, samples=2)
FULL, UNFUSED, NAIVE, ROTH = (Generator(), Generator("none"), Generator("naive"), Generator(penalty="roth"))
PAPER = {  # on BAIR: FVD of table 1, diversity of table 2, SSIM of table 3, the best of 100
    FULL: ("152 [144, 160]", "0.071 [0.065, 0.076]", "0.836 [0.832, 0.839]"),
    UNFUSED: ("175 [166, 184]", "0.051 [0.043, 0.059]", "-"),
    NAIVE: ("702 [551, 895]", "-", "-"),
}
TITLES = {
    FULL: "full",
    UNFUSED: "without fusion",
    NAIVE: "naive",
    ROTH: "full, penalty weighted as by Roth et al.",
}
PICTURES = 6  # pairs in figure 3


@dataclass(frozen=True)
class Row:
    """A line of the tables: a run for each setup that has it."""

    title: str
    run: Run
    setups: Sequence[Setup]
    paper: tuple[str, str, str] = ("-", "-", "-")

    def of(self, name: str, digits: int) -> str:
        """Mean and deviation of a score; `-` where it is none of this row."""
        scores = [setup.finished(self.run) for setup in self.setups]
        return mean([score[name] for score in scores], digits) if name in scores[0] else "-"

    def interval(self, name: str, digits: int) -> str:
        """The mean interval over pairs."""
        low, high = (
            statistics.mean(setup.finished(self.run)[f"{name}_{end}"] for setup in self.setups)
            for end in ("low", "high")
        )
        return f"[{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=3000, help="training steps of each generator")
    parser.add_argument("--videos", type=int, default=2000, help="videos of one clip each, a tenth of them held out")
    parser.add_argument("--clips", type=int, default=256, help="held-out pairs of frames")
    parser.add_argument("--count", type=int, default=8, help="samples for each pair (the paper: 100)")
    parser.add_argument("--samples", action="append", default=[], metavar="NAME=FOLDER", help="of another system")
    parser.add_argument("--jobs", type=int, default=2, help="runs executed in parallel, with one thread each")
    parser.add_argument("--quick", action="store_true", help="two steps on a few videos, as a smoke test")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes(options.steps, options.videos, 16, 32, options.clips, options.count)
    setups = [Setup(options.out, sizes, seed) for seed in options.seeds]
    others = [OtherSystem(*other_system(text)) for text in options.samples]
    baselines = [Baseline(kind) for kind in (OTHER_TRUE, CROSS_FADE, NEAREST)]
    for setup in setups:
        once = [*baselines, *others] if setup is setups[0] else []
        finish(setup, [*(Sampled(generator) for generator in TITLES), *once], options.jobs, log)
    rows = [
        *(Row(run.kind, run, setups[:1]) for run in baselines),
        *(Row(run.title, run, setups[:1]) for run in others),
        *(Row(TITLES[run], Sampled(run), setups, PAPER.get(run, Row.paper)) for run in TITLES),
    ]
    for table in TABLES:
        print(*table(rows, sizes), sep="\n", end="\n\n", flush=True)  # noqa: T201
    draw_figure(setups[0], options.out / "figure3.png")


def other_system(text: str) -> tuple[str, Path]:
    title, separator, folder = text.rpartition("=")
    if not (title and separator):
        raise SystemExit(f"--samples {text}: write NAME=FOLDER")
    return title, Path(folder)


def table_1(rows: Sequence[Row], sizes: Sizes) -> Iterator[str]:
    yield (
        f"Table 1. {sizes.clips} held-out pairs, distances are means over the sets of {sizes.samples} samples. Motion: "
        "mean change from frame to frame, relative to the true clips."
    )
    yield ""
    ours = ("temporal distance", "95 %", "frame distance", "motion", "PSNR, dB", "PSNR of moving pixels, dB")
    yield from header("", *ours, "FVD (paper, table 1, BAIR)")
    for line in rows:
        temporal = line.of("temporal_distance", 4), line.interval("temporal_distance", 4), line.of("frame_distance", 4)
        pixels = line.of("motion", 2), line.of("psnr", 2), line.of("psnr_moving", 2)
        yield row(line.title, *temporal, *pixels, line.paper[0])


def table_2(rows: Sequence[Row], sizes: Sizes) -> Iterator[str]:
    yield (
        f"Table 2. Diversity of the {sizes.samples} samples of a pair: mean of 1 - cosine in the temporal features, "
        "around the mean of true clips (the paper: in FVD's features), and mean difference of pixels, of 255."
    )
    yield ""
    yield from header("", "1 - cosine", "pixels", "1 - cosine (paper, table 2, BAIR)")
    for line in rows:
        if isinstance(line.run, Sampled | OtherSystem):
            yield row(line.title, line.of("feature_diversity", 4), line.of("pixel_diversity", 2), line.paper[1])


def table_3(rows: Sequence[Row], sizes: Sizes) -> Iterator[str]:
    yield f"Table 3. SSIM of the {sizes.frames - 2} frames between: mean, and the best of a pair's samples."
    yield ""
    yield from header("", "SSIM", "best", "of samples", "best of 100 (paper, table 3, BAIR)")
    for line in rows:
        if line.title != OTHER_TRUE:
            yield row(line.title, line.of("ssim", 4), line.of("best_ssim", 4), line.of("samples", 0), line.paper[2])


def draw_figure(setup: Setup, path: Path) -> None:
    """Figure 3: strips of frames of a true clip, of the mean of its samples, and of one sample, for some pairs."""
    true, samples = held_out(setup.sizes).frames[:PICTURES], FULL.samples(setup)[:PICTURES]
    pairs = zip(true, mean_clip(samples), samples[:, 0], strict=True)
    Image.fromarray(np.concatenate([film_strip(enlarge(below(videos), 2)) for videos in pairs])).save(path)


def log(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


TABLES: tuple[Callable[[Sequence[Row], Sizes], Iterator[str]], ...] = (table_1, table_2, table_3)


if __name__ == "__main__":
    main()
