"""LVT's tables 1, 2, 7 and 8 at a small size on Tabletop, as Markdown beside the paper's figures.

    python -m tokenreel.benchmarks.papers.lvt.tables --out lvt-grid [--seeds 1 2 3] [--tables 1 2 7 8] [--jobs 2]
    python -m tokenreel.benchmarks.papers.lvt.tables --out lvt-quick --quick --seeds 0

OUT keeps tokenizers, caches, priors and scores of finished runs: the same command continues an interrupted run, or
prints the tables of a complete one. Use a new OUT after a change of the code. Four tables with three seeds are 6
tokenizers of 2 minutes of one core and 42 priors of about one minute: half an hour on two cores.

Ours: 16 frames of 64 x 64, 8 x 8 tokens per frame from 64 codes (the paper: 16 x 16 from 512), a prior of width 96 and
few steps on about 860 clips; mean and standard deviation over seeds, each with its own tokenizer and prior. Compare
orders, not figures, and only for equal nc: at nc = 4 a token is one of four at a position, and its tokenizer keeps more
of the picture. Rates and sizes were chosen with seed 0, so others are measured.

A step trains one slice of each clip, and equally many tokens of each type: a spatial slice of 16 frames has 256
positions, those of the other types 64, so the spatial prior gets a quarter of the clips. (In the published code all
slices have 256 positions, as it cuts the spatial type's clips to 4 frames.)
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from tokenreel.benchmarks.papers.lvt.grid import Grid, Scores
from tokenreel.benchmarks.papers.lvt.measures import repeated_frame, sampling_seconds
from tokenreel.benchmarks.papers.lvt.paper import ATTENTION, DECODERS, RECONSTRUCTION, REPEATED_FRAME_FVD, SUBSCALING
from tokenreel.benchmarks.papers.lvt.setup import CODEBOOK_SIZE, GIVEN_FRAMES, SUBSCALES, Run, Sizes, Variant

VIDEOS = 480  # of two clips each; a tenth of the videos is held out
QUICK = (4, 4, 12)  # steps of a tokenizer, steps of a prior, videos
SAMPLING_GIVEN_FRAMES = 5  # where videos are sampled: for FVD and for the sampling time
NO_FVD = "-"  # FVD is not measured
BITS = f"Bits/code on held-out clips with {GIVEN_FRAMES} given frame (the paper: bits/dim with one priming frame)."
FVD = "The paper's FVD is with five given frames, mean ± deviation of 10 runs."
BASELINES = {  # counted prior -> name of its score
    "temporal bigram prior": "bits_per_code_temporal_bigram",
    "unigram prior": "bits_per_code_unigram",
}


@dataclass(frozen=True)
class Results:
    grid: Grid
    scores: Scores
    seeds: list[int]

    def of(self, name: str, codebooks: int, variant: Variant | None = None) -> list[float]:
        """The score of this name for each seed."""
        return [self.scores[Run(codebooks, seed, variant)][name] for seed in self.seeds]

    def bits(self, codebooks: int, variant: Variant) -> list[float]:
        return self.of("bits_per_code", codebooks, variant)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tables", type=int, nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each prior")
    parser.add_argument("--tokenizer-steps", type=int, default=1000, help="training steps of each tokenizer")
    parser.add_argument("--jobs", type=int, default=2, help="runs trained in parallel, with one thread each")
    parser.add_argument("--quick", action="store_true", help="a few steps on a few videos, as a smoke test")
    options = parser.parse_args()
    tokenizer_steps, steps, videos = QUICK if options.quick else (options.tokenizer_steps, options.steps, VIDEOS)
    sizes = Sizes(tokenizer_steps, steps, videos, allow_collapsed=options.quick)
    grid, seeds = Grid(options.out, sizes), options.seeds
    runs = [Run(nc, seed, variant) for seed in seeds for table in options.tables for nc, variant in RUNS[table]]
    scores = grid.finish(runs, options.jobs, lambda line: print(line, file=sys.stderr))  # noqa: T201
    for table in options.tables:
        print(*TABLES[table](Results(grid, scores, seeds)), sep="\n", end="\n\n", flush=True)  # noqa: T201


def table_1(results: Results) -> Iterator[str]:
    yield f"Table 1. Reconstruction of held-out clips, codebooks of {CODEBOOK_SIZE}; MSE of pixels in [0, 1]."
    yield ""
    yield from header("nc", "MSE", "PSNR, dB", "codes in use", "FVD", "MSE (paper, table 1)", "FVD (paper, table 1)")
    ours = {nc: results.of("mse", nc) for nc in RECONSTRUCTION}
    for nc, (error, fvd) in RECONSTRUCTION.items():
        psnr, used = mean(results.of("psnr", nc), 1), mean(results.of("video/codebook_usage", nc), 2)
        yield row(nc, mean(ours[nc], 5), psnr, used, NO_FVD, error, fvd)
    yield ""
    errors = {f"nc {nc}": values for nc, values in ours.items()}
    yield order("MSE", errors, {f"nc {nc}": error for nc, (error, _) in RECONSTRUCTION.items()})


def table_2(results: Results) -> Iterator[str]:
    clips = ", ".join(f"{name} {results.grid.sizes.clips(name)}" for name in SUBSCALES)
    yield f"Table 2. Subscaling types; clips in a training step: {clips}. {BITS} {FVD}"
    yield ""
    yield from header("subscaling type", "nc", "bits/code", "FVD", "bits/dim (paper, table 2)", "FVD (paper, table 2)")
    for nc, types in SUBSCALING.items():
        for name, paper in types.items():
            yield row(name, nc, mean(results.bits(nc, Variant(name))), NO_FVD, paper.bits, paper.fvd)
        for name, score in BASELINES.items():
            yield row(name, nc, mean(results.of(score, nc, Variant("single frame"))), NO_FVD, "-", "-")
    yield ""
    yield from baseline(results)
    for nc, types in SUBSCALING.items():
        ours = {name: results.bits(nc, Variant(name)) for name in types}
        yield order(f"bits/code, nc {nc}", ours, {name: paper.bits for name, paper in types.items()})


def baseline(results: Results) -> Iterator[str]:
    """The row of the paper's tables 3 and 6 that has no likelihood, measured in pixels."""
    scores = repeated_frame(results.grid.sizes.data, (GIVEN_FRAMES, SAMPLING_GIVEN_FRAMES))
    fvd = ", ".join(f"{value} on {data}" for data, value in REPEATED_FRAME_FVD.items())
    yield "The last given frame repeated: no bits/code, as in the paper. Held-out clips, frames that are not given."
    yield ""
    yield from header("given frames", "MSE", "PSNR, dB", "FVD", "FVD (paper, tables 3 and 6)")
    for given, score in scores.items():
        paper_fvd = fvd if given == SAMPLING_GIVEN_FRAMES else "-"
        yield row(given, f"{score['mse']:.5f}", f"{score['psnr']:.1f}", NO_FVD, paper_fvd)
    yield ""


def table_7(results: Results) -> Iterator[str]:
    yield (
        f"Table 7. Attention; single frame, nc 4. {BITS} {FVD} Seconds: processor time to sample one video of 16 "
        f"frames, {SAMPLING_GIVEN_FRAMES} of them given, on one thread (the paper: on a V100)."
    )
    yield ""
    names = ("bits/dim", "FVD", "params (M)", "seconds")
    paper = [f"{name} (paper, table 7)" for name in names]
    yield from header("attention", "bits/code", "FVD", "params (M)", "seconds", *paper)
    seconds = attention_seconds(results)
    for kind, paper_row in ATTENTION.items():
        variant = Variant(attention=kind)
        millions = results.of("parameters", 4, variant)[0] / 1e6
        ours = mean(results.bits(4, variant)), NO_FVD, f"{millions:.3f}", mean(seconds[kind], 2)
        figures = paper_row.figures.bits, paper_row.figures.fvd, f"{paper_row.parameters:.2f}", paper_row.seconds
        yield row(paper_row.name, *ours, *figures)


def attention_seconds(results: Results) -> dict[str, list[float]]:
    """Seconds to sample one video, by kind of attention, for each seed."""
    seconds: dict[str, list[float]] = {kind: [] for kind in ATTENTION}
    for seed in results.seeds:
        runs = {kind: Run(4, seed, Variant(attention=kind)) for kind in ATTENTION}
        folders = {kind: results.grid.folder(run) for kind, run in runs.items()}
        cache = results.grid.cache(runs["query-key"])
        for kind, elapsed in sampling_seconds(folders, cache, SAMPLING_GIVEN_FRAMES).items():
            seconds[kind].append(elapsed)
    return seconds


def table_8(results: Results) -> Iterator[str]:
    frequent = mean(results.of("frequent_codes", 1), 0)
    yield (
        f"Table 8. Decoder input and output; nc 1. The first adaptive cluster: the {frequent} of {CODEBOOK_SIZE} codes "
        f"that hold 80 % of the probability mass (the paper: 218 of 512). {BITS} {FVD}"
    )
    yield ""
    paper = ("bits/dim (paper, table 8)", "FVD (paper, table 8)")
    yield from header("subscaling type", "decoder input", "decoder output", "params (M)", "bits/code", "FVD", *paper)
    for decoder in DECODERS:
        millions = results.of("parameters", 1, decoder.variant)[0] / 1e6
        ours = f"{millions:.3f}", mean(results.bits(1, decoder.variant)), NO_FVD
        figures = decoder.figures.bits, decoder.figures.fvd
        yield row(decoder.variant.subscale, decoder.input, decoder.output, *ours, *figures)


def order(what: str, ours: Mapping[str, Sequence[float]], paper: Mapping[str, float]) -> str:
    """Says whether the means of `ours` are in the paper's order, and in how many seeds each pair is."""
    ranked = sorted(paper, key=lambda name: paper[name])
    pairs = list(combinations(ranked, 2))
    agreeing = [sum(a < b for a, b in zip(ours[low], ours[high], strict=True)) for low, high in pairs]
    agrees = all(statistics.mean(ours[low]) < statistics.mean(ours[high]) for low, high in pairs)
    our_order = sorted(ours, key=lambda name: statistics.mean(ours[name]))
    counts = "; ".join(
        f"{low} below {high} in {count} of {len(ours[low])} seeds"
        for (low, high), count in zip(pairs, agreeing, strict=True)
    )
    verdict = "agrees" if agrees else "does not agree"
    return f"Order of {what}: {' < '.join(our_order)}; the paper's: {' < '.join(ranked)}: {verdict} ({counts})."


def mean(values: Sequence[float], digits: int = 3) -> str:
    """Mean, and the standard deviation if there is more than one value."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def header(*names: str) -> Iterator[str]:
    yield row(*names)
    yield "|" + "---|" * len(names)


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


RUNS: dict[int, list[tuple[int, Variant | None]]] = {  # table -> (nc, variant) of its runs
    1: [(nc, None) for nc in RECONSTRUCTION],
    2: [(nc, Variant(name)) for nc, types in SUBSCALING.items() for name in types],
    7: [(4, Variant(attention=kind)) for kind in ATTENTION],
    8: [(1, decoder.variant) for decoder in DECODERS],
}
TABLES: dict[int, Callable[[Results], Iterable[str]]] = {1: table_1, 2: table_2, 7: table_7, 8: table_8}


if __name__ == "__main__":
    main()
