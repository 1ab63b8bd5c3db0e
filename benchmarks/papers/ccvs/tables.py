"""CCVS's tables 2 and 5 and figure 3 at a small size on Tabletop, as Markdown beside the paper's figures.

    python -m tokenreel.benchmarks.papers.ccvs.tables --out ccvs-tables [--tables 2 5] [--figure] [--seed 0] [--jobs 2]
    python -m tokenreel.benchmarks.papers.ccvs.tables --out ccvs-quick --figure --quick

Table 2: layers, heads and position embeddings of the transformer, and top-k. Table 5: codebook sizes. Figure 3: tokens
per frame against speed and quality, also as the picture OUT/figure3.png. OUT keeps all runs: the same command continues
an interrupted one, or prints the tables of a complete one. Use a new OUT after a change of the code.

Ours is the preset ccvs-tabletop-tiny, one seed: 16 frames of 64 x 64, a codebook of 16. FVD is not measured. Instead:
PSNR to the true continuation, which is low for a sample that continues differently; the mean distance between samples
of one start, in pixel values up to 255 (the paper's DIV); the fraction of tokens that change from a frame to the next,
beside that of true videos.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib import pyplot

from tokenreel.benchmarks.papers.ccvs import measures
from tokenreel.benchmarks.papers.ccvs.grid import PIXELS, Run, Scores, Setup, Sizes, finish
from tokenreel.benchmarks.papers.ccvs.runs import PRESET, Drawn, GPTRun, Regressed, Speed, Tokenizer
from tokenreel.benchmarks.papers.lvt.tables import head, row
from tokenreel.pipelines.common.settings import resolve

QUICK = Sizes(tokenizer_steps=2, prior_steps=2, videos=12, frames=4, clips=2, starts=2, samples=2)
SMALLER = ((1, 1), (2, 2))  # layers and heads beside the preset's: the paper has 6 and 4, 12 and 8, 24 and 16
CODEBOOKS = (4, 16, 64, 256, None)  # K; None: no quantizer
RATES = (1, 2, 5, 10, 20, 50)  # frames a second, marked in the figure
NO_FVD = "-"  # until there is an evaluation
TOP_K, STATE_TOP_K = (1, 2, 8), (1, 3)  # of our 16 and 32 codes; the paper: 1, 10, 100 of 1,024 and 1, 10 of 128
PAPER_2 = (  # layers, heads, positions, top-k of frames and states; FVD and PSNR with states; FVD of predictions
    ("6, 4, joint, 1, 1", "73 ± 2, 23.0; 281 ± 7"),
    ("12, 8, joint, 1, 1", "73 ± 3, 23.1; 262 ± 7"),
    ("24, 16, joint, 1, 1", "70 ± 3, 23.3; 331 ± 9"),
    ("24, 16, decomposed, 1, 1", "69 ± 2, 23.2; 321 ± 9"),
    ("24, 16, decomposed, 10, 1", "65 ± 2, 22.4; 127 ± 7"),
    ("24, 16, decomposed, 100, 1", "67 ± 1, 22.3; 121 ± 2"),
    ("24, 16, decomposed, 100, 10", "67 ± 1, 22.3; 100 ± 2"),
)
PAPER_5 = (  # codes; FVD, SSIM and PSNR of reconstructions; FVD of predictions
    ("1,024", "58 ± 1, 0.907, 31.2; 66 ± 2"),
    ("4,096", "54 ± 1, 0.917, 31.6; 64 ± 1"),
    ("16,384", "49 ± 1, 0.923, 32.0; 55 ± 1"),
    ("65,536", "45 ± 1, 0.928, 32.2; 61 ± 1"),
    ("∞", "12 ± 1, 0.963, 34.5; 229 ± 1"),
)


@dataclass(frozen=True)
class Preset:
    """What the runs differ from."""

    tokenizer: Tokenizer
    depth: int
    heads: int
    tokenizer_steps: int
    prior_steps: int

    @classmethod
    def load(cls) -> Preset:
        sections, prior = (resolve(PRESET, None, (), {}, stage) for stage in ("tokenizer", "prior"))
        tokenizer, shape = sections["tokenizer"], sections["prior"]
        return cls(
            Tokenizer(tokenizer["quantizer"]["codebook_size"], tuple(tokenizer["multipliers"])),
            shape["depth"],
            shape["heads"],
            sections["training"]["steps"],
            prior["training"]["steps"],
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.depth, self.heads

    def prior(self, tokenizer: Tokenizer) -> GPTRun:
        return GPTRun(tokenizer, self.depth, self.heads)


@dataclass(frozen=True)
class Results:
    setup: Setup
    preset: Preset

    def of(self, run: Run) -> Scores:
        scores = self.setup.scores(run)
        assert scores is not None, f"{run} is not finished"
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tables", type=int, nargs="*", choices=(2, 5), default=[2, 5])
    parser.add_argument("--figure", action="store_true", help="figure 3 as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of each prior; the preset's if left out")
    parser.add_argument("--tokenizer-steps", type=int, help="the preset's if left out")
    parser.add_argument("--jobs", type=int, default=2, help="runs made side by side, of one thread each")
    parser.add_argument("--quick", action="store_true", help="a few steps on a few short videos, to see that it works")
    options = parser.parse_args()
    preset = Preset.load()
    steps = options.tokenizer_steps or preset.tokenizer_steps, options.steps or preset.prior_steps
    sizes = QUICK if options.quick else Sizes(*steps, videos=480, frames=16, clips=48, starts=24, samples=3)
    setup = Setup(options.out, sizes, options.seed)
    results = Results(setup, preset)
    finish(setup, wanted(preset, options.tables, options.figure), options.jobs, tell)
    if 2 in options.tables:
        show(table_2(results))
    if 5 in options.tables:
        show(table_5(results))
    if options.figure:
        finish(setup, [Speed(preset.prior(tokenizer)) for tokenizer in grids(preset)], 1, tell)  # nothing beside it
        show(figure_3(results))
        draw_figure(results, options.out / "figure3.png")


def wanted(preset: Preset, tables: list[int], figure: bool) -> list[Run]:
    """Long ones first, so that they do not come alone at the end."""
    runs = list[Run]()
    if figure:
        runs += [Drawn(preset.prior(tokenizer)) for tokenizer in reversed(grids(preset))]
    if 2 in tables:
        runs += [run for drawn in members_2(preset) for run in (drawn, unsteered(drawn.prior))]
    if 5 in tables:
        runs += [predictions(preset, tokenizer) for tokenizer in codebooks(preset)]
    return runs


def members_2(preset: Preset) -> list[Drawn]:
    """In the order of the paper's rows."""
    full = GPTRun(preset.tokenizer, preset.depth, preset.heads, steered=True)
    joint = [replace(full, depth=depth, heads=heads, positions="joint") for depth, heads in (*SMALLER, preset.shape)]
    top_k = [(frames, STATE_TOP_K[0]) for frames in TOP_K] + [(TOP_K[-1], STATE_TOP_K[-1])]
    return [*(Drawn(prior, 1, 1) for prior in joint), *(Drawn(full, *counts) for counts in top_k)]


def unsteered(prior: GPTRun) -> GPTRun:
    return replace(prior, steered=False)


def codebooks(preset: Preset) -> list[Tokenizer]:
    return [replace(preset.tokenizer, codes=codes) for codes in CODEBOOKS]


def grids(preset: Preset) -> list[Tokenizer]:
    """With a level more, which is as wide as the coarsest one, to one less: 4 x 4, 8 x 8 and 16 x 16 codes a frame."""
    multipliers = preset.tokenizer.multipliers
    chosen = ((*multipliers, multipliers[-1]), multipliers, multipliers[:-1])
    return [replace(preset.tokenizer, multipliers=levels) for levels in chosen]


def predictions(preset: Preset, tokenizer: Tokenizer) -> Run:
    if tokenizer.codes is None:
        return Regressed(tokenizer, preset.depth, preset.heads)
    return Drawn(preset.prior(tokenizer))


def table_2(results: Results) -> Iterator[str]:
    sizes = results.setup.sizes
    last = members_2(results.preset)[-1]
    data, drawn = measures.held_out(sizes.starts, sizes.frames, PIXELS), results.of(last)
    repeated = measures.scores(data, measures.repeated(data))["psnr"]
    table = results.of(unsteered(last.prior))["bits_per_code_temporal_bigram"]
    yield (
        "Table 2. Transformers on the codes of one tokenizer, with the arm's position as states, an "
        "input at each code too, which the paper's are not. Given the first frame "
        f"and all states: bits/code, and PSNR of the {sizes.frames - 1} frames drawn (true codes decoded: "
        f"{drawn['true_codes/psnr']:.2f} dB; the first frame repeated: {repeated:.2f} dB). Given the first frame and "
        "its state, those that follow drawn as well: distance between samples, and the share of codes that change from "
        f"a frame to the next (true videos: {drawn['true_moving_codes']:.1%}). Bits/code without states are those of a "
        f"prior that knows none (a temporal bigram prior: {table:.3f})."
    )
    yield ""
    ours = ("bits/code, states", "PSNR, states, dB", "bits/code, no states", "distance", "codes that change", "FVD")
    shape = ("layers", "heads", "positions", "top-k of frames", "of states")
    yield from head(*shape, *ours, "row of the paper's table 2", "its FVD, PSNR with states; FVD of predictions")
    for member, paper in zip(members_2(results.preset), PAPER_2, strict=True):
        prior, scores = member.prior, results.of(member)
        bits, without = (results.of(run)["bits_per_code"] for run in (prior, unsteered(prior)))
        figures = f"{bits:.3f}", f"{scores['state/psnr']:.2f}", f"{without:.3f}", f"{scores['diversity']:.2f}"
        settings = prior.depth, prior.heads, prior.positions, member.top_k, member.state_top_k
        yield row(*settings, *figures, f"{scores['moving_codes']:.1%}", NO_FVD, *paper)


def table_5(results: Results) -> Iterator[str]:
    yield (
        "Table 5. Size of the codebook. Reconstructions from the true first frame on, recursively, with one frame of "
        f"context and with up to {results.of(results.preset.tokenizer)['context']:.0f}; predictions from the first "
        "frame, codes drawn from all of the codebook. ∞: no quantizer, and a transformer that regresses the next "
        "latent, which has one outcome for each start. The paper's are on Kinetics."
    )
    yield ""
    judged = ("PSNR, one frame, dB", "SSIM, one frame", "PSNR, dB", "SSIM", "FVD")
    predicted = ("bits/code", "bits/frame", "predicted PSNR, dB", "distance", "predicted FVD")
    paper = ("codes (paper, table 5)", "FVD, SSIM, PSNR; predicted FVD")
    yield from head("codes", "in use", *judged, *predicted, *paper)
    for tokenizer, figures in zip(codebooks(results.preset), PAPER_5, strict=True):
        scores, drawn = results.of(tokenizer), results.of(predictions(results.preset, tokenizer))
        size, in_use, bits = ("∞", "-", ("-", "-"))
        if tokenizer.codes is not None:
            size, in_use, bits = str(tokenizer.codes), f"{scores['in_use']:.0f}", bits_of(results, tokenizer)
        outcome = f"{drawn['psnr']:.2f}", f"{drawn['diversity']:.2f}", NO_FVD
        yield row(size, in_use, *reconstruction(scores), NO_FVD, *bits, *outcome, *figures)


def reconstruction(scores: Scores) -> list[str]:
    return [
        text
        for name in ("one", "default")
        for text in (f"{scores[f'{name}/psnr']:.2f}", f"{scores[f'{name}/ssim']:.3f}")
    ]


def bits_of(results: Results, tokenizer: Tokenizer) -> tuple[str, str]:
    """Of a code, and of a frame."""
    bits = results.of(results.preset.prior(tokenizer))["bits_per_code"]
    return f"{bits:.3f}", f"{bits * tokenizer.side**2:.1f}"


def figure_3(results: Results) -> Iterator[str]:
    yield (
        "Figure 3. Codes a frame against speed and quality: a level more or less, all else equal. Frames a second of "
        "one video by one thread: drawn, decoded, and both. The paper, on a V100, finds 64 codes best in FVD at a "
        "reasonable speed, and a critical drop of speed with more; its figures are in a picture only."
    )
    yield ""
    speed, quality = (
        ("frames/s drawn", "decoded", "both"),
        ("PSNR, one frame, dB", "SSIM, one frame", "PSNR, dB", "SSIM"),
    )
    yield from head(
        "grid", "codes a frame", *speed, *quality, "bits/code", "bits/frame", "predicted PSNR, dB", "distance"
    )
    for tokenizer in grids(results.preset):
        prior = results.preset.prior(tokenizer)
        rates, drawn = results.of(Speed(prior)), results.of(Drawn(prior))
        shown = [f"{rates[name]:.2f}" for name in ("sampling", "decoding", "both")]
        outcome = f"{drawn['psnr']:.2f}", f"{drawn['diversity']:.2f}"
        grid = f"{tokenizer.side} x {tokenizer.side}", tokenizer.side**2
        yield row(*grid, *shown, *reconstruction(results.of(tokenizer)), *bits_of(results, tokenizer), *outcome)


def draw_figure(results: Results, path: Path) -> None:
    tokenizers = grids(results.preset)
    priors = [results.preset.prior(tokenizer) for tokenizer in tokenizers]
    codes = [tokenizer.side**2 for tokenizer in tokenizers]
    figure, (speed, quality) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name in ("sampling", "decoding", "both"):
        speed.plot(codes, [results.of(Speed(prior))[name] for prior in priors], marker="o", label=name)
    speed.set(ylabel="frames a second", yscale="log", yticks=RATES, yticklabels=RATES)
    quality.plot(codes, [results.of(run)["default/psnr"] for run in tokenizers], marker="o", label="reconstruction")
    quality.plot(codes, [results.of(Drawn(prior))["psnr"] for prior in priors], marker="o", label="prediction")
    quality.set(ylabel="PSNR, dB")
    for axes in (speed, quality):
        axes.set(xlabel="codes a frame", xscale="log", xticks=codes, xticklabels=codes)
        axes.minorticks_off()
        axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def show(lines: Iterator[str]) -> None:
    print(*lines, sep="\n", end="\n\n", flush=True)  # noqa: T201


def tell(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
