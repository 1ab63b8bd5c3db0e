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
from tokenreel.benchmarks.papers.ccvs.grid import PIXELS, Run, Setup, Sizes
from tokenreel.benchmarks.papers.ccvs.runs import PRESET, GPTRun, Regressed, Sampled, Speed, Tokenizer
from tokenreel.benchmarks.papers.grid import Scores, finish
from tokenreel.benchmarks.papers.lvt.tables import header, row
from tokenreel.pipelines.common.settings import resolve

QUICK = Sizes(tokenizer_steps=2, prior_steps=2, videos=12, frames=4, clips=2, starts=2, samples=2)
SMALLER = ((1, 1), (2, 2))  # layers and heads beside the preset's: the paper has 6 and 4, 12 and 8, 24 and 16
CODEBOOK_SIZES = (4, 16, 64, 256, None)  # K; None: no quantizer
RATES = (1, 2, 5, 10, 20, 50)  # ticks of the figure in frames per second
NO_FVD = "-"  # FVD is not measured
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
    """The preset's tokenizer, the shape of its prior, and its numbers of steps."""

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
        return self.setup.finished(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tables", type=int, nargs="*", choices=(2, 5), default=[2, 5])
    parser.add_argument("--figure", action="store_true", help="figure 3 as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="training steps of each prior (default: the preset's)")
    parser.add_argument("--tokenizer-steps", type=int, help="training steps of each tokenizer (default: the preset's)")
    parser.add_argument("--jobs", type=int, default=2, help="runs executed in parallel, with one thread each")
    parser.add_argument("--quick", action="store_true", help="a few steps on a few short videos, as a smoke test")
    options = parser.parse_args()
    preset = Preset.load()
    steps = options.tokenizer_steps or preset.tokenizer_steps, options.steps or preset.prior_steps
    sizes = QUICK if options.quick else Sizes(*steps, videos=480, frames=16, clips=48, starts=24, samples=3)
    setup = Setup(options.out, sizes, options.seed)
    results = Results(setup, preset)
    finish(setup, runs_of(preset, options.tables, options.figure), options.jobs, log)
    if 2 in options.tables:
        show(table_2(results))
    if 5 in options.tables:
        show(table_5(results))
    if options.figure:
        finish(
            setup, [Speed(preset.prior(tokenizer)) for tokenizer in grid_tokenizers(preset)], 1, log
        )  # alone, as it is timed
        show(figure_3(results))
        draw_figure(results, options.out / "figure3.png")


def runs_of(preset: Preset, tables: list[int], figure: bool) -> list[Run]:
    """All runs; long ones first, so that none of them runs alone at the end."""
    runs = list[Run]()
    if figure:
        runs += [Sampled(preset.prior(tokenizer)) for tokenizer in reversed(grid_tokenizers(preset))]
    if 2 in tables:
        runs += [run for sampled in table_2_runs(preset) for run in (sampled, unconditioned(sampled.prior))]
    if 5 in tables:
        runs += [predictions(preset, tokenizer) for tokenizer in codebook_tokenizers(preset)]
    return runs


def table_2_runs(preset: Preset) -> list[Sampled]:
    """The rows of table 2, in the paper's order."""
    full = GPTRun(preset.tokenizer, preset.depth, preset.heads, conditioned=True)
    joint = [replace(full, depth=depth, heads=heads, positions="joint") for depth, heads in (*SMALLER, preset.shape)]
    top_k = [(frames, STATE_TOP_K[0]) for frames in TOP_K] + [(TOP_K[-1], STATE_TOP_K[-1])]
    return [*(Sampled(prior, 1, 1) for prior in joint), *(Sampled(full, *counts) for counts in top_k)]


def unconditioned(prior: GPTRun) -> GPTRun:
    return replace(prior, conditioned=False)


def codebook_tokenizers(preset: Preset) -> list[Tokenizer]:
    return [replace(preset.tokenizer, codebook_size=size) for size in CODEBOOK_SIZES]


def grid_tokenizers(preset: Preset) -> list[Tokenizer]:
    """Tokenizers of 4 x 4, 8 x 8 and 16 x 16 tokens per frame: with one more level, as the preset, with one fewer."""
    multipliers = preset.tokenizer.multipliers
    choices = ((*multipliers, multipliers[-1]), multipliers, multipliers[:-1])
    return [replace(preset.tokenizer, multipliers=levels) for levels in choices]


def predictions(preset: Preset, tokenizer: Tokenizer) -> Run:
    if tokenizer.codebook_size is None:
        return Regressed(tokenizer, preset.depth, preset.heads)
    return Sampled(preset.prior(tokenizer))


def table_2(results: Results) -> Iterator[str]:
    sizes = results.setup.sizes
    last = table_2_runs(results.preset)[-1]
    data, sampled = measures.held_out(sizes.starts, sizes.frames, PIXELS), results.of(last)
    repeated = measures.scores(data, measures.repeated(data))["psnr"]
    bigram = results.of(unconditioned(last.prior))["bits_per_code_temporal_bigram"]
    yield (
        "Table 2. Transformers on the tokens of one tokenizer, given the arm's position as states, which are an "
        "input at each token too (not so in the paper). Given the first frame "
        f"and all states: bits/code, and PSNR of the {sizes.frames - 1} sampled frames (true tokens decoded: "
        f"{sampled['true_codes/psnr']:.2f} dB; the first frame repeated: {repeated:.2f} dB). Given the first frame and "
        "its state, with later states sampled: distance between samples, and the fraction of tokens that change from "
        f"one frame to the next (true videos: {sampled['true_moving_codes']:.1%}). Bits/code without states are of a "
        f"prior without this control (temporal bigram prior: {bigram:.3f})."
    )
    yield ""
    ours = ("bits/code, states", "PSNR, states, dB", "bits/code, no states", "distance", "changed tokens", "FVD")
    shape = ("layers", "heads", "positions", "top-k of frames", "of states")
    yield from header(*shape, *ours, "row of the paper's table 2", "its FVD, PSNR with states; FVD of predictions")
    for run, paper in zip(table_2_runs(results.preset), PAPER_2, strict=True):
        prior, scores = run.prior, results.of(run)
        bits, without = (results.of(gpt)["bits_per_code"] for gpt in (prior, unconditioned(prior)))
        figures = f"{bits:.3f}", f"{scores['state/psnr']:.2f}", f"{without:.3f}", f"{scores['diversity']:.2f}"
        settings = prior.depth, prior.heads, prior.positions, run.top_k, run.state_top_k
        yield row(*settings, *figures, f"{scores['moving_codes']:.1%}", NO_FVD, *paper)


def table_5(results: Results) -> Iterator[str]:
    yield (
        "Table 5. Codebook sizes. Reconstructions, decoded autoregressively from the true first frame, with one frame "
        f"of context and with up to {results.of(results.preset.tokenizer)['context']:.0f}; predictions from the first "
        "frame, tokens sampled from the whole codebook. ∞: no quantizer, and a transformer that regresses the next "
        "latent, which gives one outcome for each start. The paper's are on Kinetics."
    )
    yield ""
    reconstructed = ("PSNR, one frame, dB", "SSIM, one frame", "PSNR, dB", "SSIM", "FVD")
    predicted = ("bits/code", "bits/frame", "predicted PSNR, dB", "distance", "predicted FVD")
    paper = ("codebook size (paper, table 5)", "FVD, SSIM, PSNR; predicted FVD")
    yield from header("codebook size", "in use", *reconstructed, *predicted, *paper)
    for tokenizer, figures in zip(codebook_tokenizers(results.preset), PAPER_5, strict=True):
        scores, sampled = results.of(tokenizer), results.of(predictions(results.preset, tokenizer))
        size, in_use, bits = ("∞", "-", ("-", "-"))
        if tokenizer.codebook_size is not None:
            size, in_use, bits = str(tokenizer.codebook_size), f"{scores['in_use']:.0f}", bits_of(results, tokenizer)
        outcome = f"{sampled['psnr']:.2f}", f"{sampled['diversity']:.2f}", NO_FVD
        yield row(size, in_use, *reconstruction(scores), NO_FVD, *bits, *outcome, *figures)


def reconstruction(scores: Scores) -> list[str]:
    return [
        text
        for name in ("one", "default")
        for text in (f"{scores[f'{name}/psnr']:.2f}", f"{scores[f'{name}/ssim']:.3f}")
    ]


def bits_of(results: Results, tokenizer: Tokenizer) -> tuple[str, str]:
    """Bits per token and per frame."""
    bits = results.of(results.preset.prior(tokenizer))["bits_per_code"]
    return f"{bits:.3f}", f"{bits * tokenizer.side**2:.1f}"


def figure_3(results: Results) -> Iterator[str]:
    yield (
        "Figure 3. Tokens per frame against speed and quality: one level more or fewer, all else equal. Frames per "
        "second of one video on one thread: sampled, decoded, and both. The paper, on a V100, finds 64 codes best in "
        "FVD at a reasonable speed, and a critical drop of speed with more; it gives its figures in a plot only."
    )
    yield ""
    speed, quality = (
        ("frames/s sampled", "decoded", "both"),
        ("PSNR, one frame, dB", "SSIM, one frame", "PSNR, dB", "SSIM"),
    )
    yield from header(
        "grid", "tokens per frame", *speed, *quality, "bits/code", "bits/frame", "predicted PSNR, dB", "distance"
    )
    for tokenizer in grid_tokenizers(results.preset):
        prior = results.preset.prior(tokenizer)
        rates, sampled = results.of(Speed(prior)), results.of(Sampled(prior))
        speeds = [f"{rates[name]:.2f}" for name in ("sampling", "decoding", "both")]
        outcome = f"{sampled['psnr']:.2f}", f"{sampled['diversity']:.2f}"
        grid = f"{tokenizer.side} x {tokenizer.side}", tokenizer.side**2
        yield row(*grid, *speeds, *reconstruction(results.of(tokenizer)), *bits_of(results, tokenizer), *outcome)


def draw_figure(results: Results, path: Path) -> None:
    tokenizers = grid_tokenizers(results.preset)
    priors = [results.preset.prior(tokenizer) for tokenizer in tokenizers]
    tokens = [tokenizer.side**2 for tokenizer in tokenizers]
    figure, (speed, quality) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name in ("sampling", "decoding", "both"):
        speed.plot(tokens, [results.of(Speed(prior))[name] for prior in priors], marker="o", label=name)
    speed.set(ylabel="frames per second", yscale="log", yticks=RATES, yticklabels=RATES)
    quality.plot(tokens, [results.of(run)["default/psnr"] for run in tokenizers], marker="o", label="reconstruction")
    quality.plot(tokens, [results.of(Sampled(prior))["psnr"] for prior in priors], marker="o", label="prediction")
    quality.set(ylabel="PSNR, dB")
    for axes in (speed, quality):
        axes.set(xlabel="tokens per frame", xscale="log", xticks=tokens, xticklabels=tokens)
        axes.minorticks_off()
        axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def show(lines: Iterator[str]) -> None:
    print(*lines, sep="\n", end="\n\n", flush=True)  # noqa: T201


def log(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
