"""DVD-GAN's results (arXiv 1907.06571) at a small size on Tabletop, as Markdown: synthesis with the truncation curve,
figure 6, and prediction.

    python -m tokenreel.benchmarks.papers.dvd_gan.tables --out dvd-gan [--seeds 1 2 3] [--steps 1000] [--jobs 2]
    python -m tokenreel.benchmarks.papers.dvd_gan.tables --out dvd-gan-quick --quick --seeds 0

Clips of 12 frames of 32 x 32. Synthesis: class-conditional samples of the preset dvdgan-tabletop-tiny, with noise of
standard deviations from 0 to 1. Figure 6: phi, and the number k of frames that the spatial discriminator sees.
Prediction: dvdgan-tabletop-tiny-fp, 1 -> 11 and 5 -> 7 frames. OUT keeps all runs: the same command continues an
interrupted one, or prints the tables of a complete one. Use a new OUT after a change of the code.

FID, FVD and the inception score are not measured: their networks are not at hand. Instead, distances in features of
random networks, of single frames and of whole clips (`metrics/distances.py`), and the fraction of samples whose class a
classifier recognises (`class_score`). Mean and standard deviation over seeds; 95 % intervals over held-out clips.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenreel.benchmarks.papers.dvd_gan.runs import (
    ClassifierRun,
    Generator,
    OtherTrueClips,
    Predicted,
    Repeated,
    Synthesized,
)
from tokenreel.benchmarks.papers.generators import Run, Setup, Sizes
from tokenreel.benchmarks.papers.grid import finish
from tokenreel.benchmarks.papers.lvt.tables import header, mean, row

QUICK = Sizes(steps=2, videos=60, frames=12, pixels=32, clips=6, samples=2)
TRUNCATIONS = tuple(step / 10 for step in range(11))
REDUCTIONS = ("identity", "pool2", "pool4", "crop")  # phi
COUNTS = (1, 2, 8, 10)  # k
GIVEN, PREDICTED_K = (1, 5), 4  # frames, and k, which are drawn of those that are generated
FIGURE_6 = {
    "phi": [Generator(reduction=reduction) for reduction in REDUCTIONS],
    "k": [Generator(frames=count) for count in COUNTS],
}


@dataclass(frozen=True)
class Results:
    setups: list[Setup]  # one for each seed

    def cells(self, run: Run, *scores: tuple[str, int], seeds: bool = True) -> list[str]:
        """Mean and deviation over seeds of scores, (name, digits); of the first seed where they depend on none."""
        finished = [setup.finished(run) for setup in (self.setups if seeds else self.setups[:1])]
        return [mean([values[name] for values in finished], digits) for name, digits in scores]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each generator")
    parser.add_argument("--videos", type=int, default=2000, help="videos of one clip each, a tenth of them held out")
    parser.add_argument("--clips", type=int, default=256, help="held-out clips that are scored")
    parser.add_argument("--samples", type=int, default=4, help="samples for the conditions of each held-out clip")
    parser.add_argument("--jobs", type=int, default=2, help="runs executed in parallel, with one thread each")
    parser.add_argument("--quick", action="store_true", help="two steps on a few videos, as a smoke test")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes(options.steps, options.videos, 12, 32, options.clips, options.samples)
    results = Results([Setup(options.out, sizes, seed) for seed in options.seeds])
    for setup in results.setups:
        runs = [run for table in options.tables for run in RUNS[table]]
        once = [run for table in options.tables for run in ONCE[table]] if setup is results.setups[0] else []
        finish(setup, [*runs, *once], options.jobs, log)
    for table in options.tables:
        print(*TABLES[table](results), sep="\n", end="\n\n", flush=True)  # noqa: T201


def synthesis(results: Results) -> Iterator[str]:
    sizes = results.setups[0].sizes
    yield (
        f"Synthesis (the paper's table 1 and truncation). {sizes.samples} samples of the class of each of "
        f"{sizes.clips} held-out clips; diversity: mean difference of pixels, of 255, between samples of one class. "
        "The paper, 12 frames of 64 x 64 of Kinetics-600: FID 0.85 and IS 53.81; with the truncation of the best IS, "
        "FID 7.13 and IS 187.23."
    )
    yield ""
    scores = (("class_score", 3), ("frame_distance", 4), ("temporal_distance", 4), ("motion", 2))
    yield from header("truncation", "class score", "frame distance", "temporal distance", "motion", "diversity")
    yield row("other true clips", *results.cells(OtherTrueClips(), *scores, seeds=False), "-")
    for run in curve():
        yield row(f"{run.truncation:g}", *results.cells(run, *scores, ("pixel_diversity", 2)))


def figure_6(results: Results) -> Iterator[str]:
    yield (
        "Figure 6. phi, through which the temporal discriminator sees a clip, with k = 8; and k, with phi = pool2. The "
        "paper: FID is alike for every phi but pool4, IS falls with pooling, crop is worse than pool2; more frames k "
        "are better, with diminishing returns."
    )
    yield ""
    yield from header("phi", "k", "class score", "frame distance", "temporal distance", "motion", "training, s")
    for generator in dict.fromkeys(generator for generators in FIGURE_6.values() for generator in generators):
        scores = results.cells(
            Synthesized(generator),
            *(("class_score", 3), ("frame_distance", 4), ("temporal_distance", 4), ("motion", 2)),
        )
        yield row(generator.reduction, generator.frames, *scores, *results.cells(generator, ("seconds", 0)))


def prediction(results: Results) -> Iterator[str]:
    sizes = results.setups[0].sizes
    yield (
        f"Prediction (the paper's tables 3 and 4). {sizes.samples} samples for the first frames of each of "
        f"{sizes.clips} held-out clips, beside the last given frame repeated. The paper, FVD: 109.8 on BAIR, 1 -> 15; "
        "69.15 on Kinetics-600, 5 -> 11."
    )
    yield ""
    names = ("frame distance", "temporal distance", "motion", "PSNR, dB", "PSNR of moving pixels, dB", "best SSIM")
    yield from header("given frames", "", *names, "diversity")
    scores = (("frame_distance", 4), ("temporal_distance", 4), ("motion", 2), ("psnr", 2), ("psnr_moving", 2))
    for given in GIVEN:
        for title, run in (("repeated", Repeated(given)), ("DVD-GAN-FP", Predicted(predictor(given)))):
            measured = (*scores, ("best_ssim", 3), ("pixel_diversity", 2))
            yield row(given, title, *results.cells(run, *measured, seeds=isinstance(run, Predicted)))


def curve() -> list[Synthesized]:
    return [Synthesized(Generator(), truncation) for truncation in TRUNCATIONS]


def predictor(given: int) -> Generator:
    return Generator(given_frames=given, frames=PREDICTED_K)


def log(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


TABLES: dict[str, Callable[[Results], Iterator[str]]] = {
    "synthesis": synthesis,
    "figure-6": figure_6,
    "prediction": prediction,
}
RUNS: dict[str, list[Run]] = {  # of each seed
    "synthesis": [*curve()],
    "figure-6": [Synthesized(generator) for generators in FIGURE_6.values() for generator in generators],
    "prediction": [Predicted(predictor(given)) for given in GIVEN],
}
ONCE: dict[str, list[Run]] = {  # that depend on no seed
    "synthesis": [ClassifierRun(), OtherTrueClips()],
    "figure-6": [],
    "prediction": [Repeated(given) for given in GIVEN],
}


if __name__ == "__main__":
    main()
