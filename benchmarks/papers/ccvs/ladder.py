"""CCVS's table 1 at a small size on Tabletop: the contribution of each ingredient of the autoencoder, as Markdown.

    python -m tokenreel.benchmarks.papers.ccvs.ladder --out ccvs-ladder [--steps 1500] [--jobs 2] [--seed 0]
    python -m tokenreel.benchmarks.papers.ccvs.ladder --judge runs/ccvs-tokenizer

Each row is ccvs-tabletop-tiny with one more ingredient (the consistency loss is added with the flow). Videos of 16
frames are decoded autoregressively from their true tokens and a true first frame (the paper's column "Reconstruction").
The paper's perceptual row uses VGG-16; here it is the small network that `tabletop_perceptual.py` trains on Tabletop.
OUT keeps what is trained: the same command continues an interrupted run, or prints the table of a complete one. Use a
new OUT after a change of the code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from safetensors.torch import save_file

from tokenreel.benchmarks.papers.ccvs import measures
from tokenreel.benchmarks.papers.ccvs.tabletop_perceptual import train_tabletop_perceptual
from tokenreel.pipelines.commands import train_tokenizer
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.requests.training import TrainTokenizerRequest
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import ContextAutoencoder

PRESET = "ccvs-tabletop-tiny"
DATA = "tabletop:?videos=480&frames=32"
HELD_OUT = 48  # clips that are scored
CONTEXTS = (1, 3, 8, 15)  # frames of context with which a run of --judge is scored
PERCEPTUAL, PERCEPTUAL_STEPS = "perceptual.safetensors", 600
EVALUATION = (
    "training={validation_clips: 4, validate_every: 1000000, sample_every: 1000000, checkpoint_every: 250, "
    "keep_checkpoints: 1}"
)
DISCRIMINATOR = "{width: 8, multipliers: [1, 2, 4, 4]}"
# The learning rate with which these settings were chosen; the tokenizer's is now five times as high.
ADVERSARIAL = (
    "training.tokenizer.adversarial={weight: 0.1, start_step: 300, adaptive: true, cap: 10.0, learning_rate: 4.0e-3}"
)


@dataclass(frozen=True)
class Rung:
    """A row of table 1: its ingredients, the frames of context with which it is scored, and the paper's figures."""

    name: str
    settings: tuple[str, ...]
    contexts: tuple[int, ...]
    paper: tuple[str, ...]  # FVD and PSNR (dB) at 256 x 256 on BAIR, for each of `contexts`


def rungs(weights: Path) -> list[Rung]:
    """The rows, each with the ingredients of those before it."""
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
    no_flow, no_views = "tokenizer={flow: null, augmented_views: null}", "tokenizer={augmented_views: null}"
    perceptual = f"training.tokenizer.perceptual={{network: tabletop, file: {weights}, sha256: {sha256}, weight: 1.0}}"
    image = f"training.tokenizer.image_discriminator={DISCRIMINATOR}"
    temporal = f"training.tokenizer.temporal_discriminator={DISCRIMINATOR}"
    losses = (perceptual, image, temporal, ADVERSARIAL)
    return [
        Rung("RGB", (no_flow,), (0,), ("1200, 20.0",)),
        Rung("+ perceptual", (no_flow, perceptual), (0,), ("700, 17.9",)),
        Rung("+ image discriminator", (no_flow, perceptual, image, ADVERSARIAL), (0,), ("323, 17.8",)),
        Rung("+ temporal discriminator", (no_flow, *losses), (0,), ("389, 18.2",)),
        Rung("+ flow", (no_views, *losses), (1,), ("98, 22.7",)),
        Rung("+ self-supervision", losses, (1, 8, 15), ("87, 24.4", "62, 25.4", "60, 25.6")),
    ]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("ccvs-ladder"), show_default=True)
@click.option("--steps", default=1500, help="Training steps of each rung.")
@click.option("--jobs", default=2, help="Rungs trained in parallel, on one thread each.")
@click.option("--seed", default=0)
@click.option("--only", multiple=True, help="Name of a rung to train and score. Default: all.")
@click.option("--judge", type=click.Path(path_type=Path), help="Score this trained run of the preset, not the ladder.")
def main(out: Path, steps: int, jobs: int, seed: int, only: tuple[str, ...], judge: Path | None) -> None:
    if judge is not None:
        show(table([Rung(str(judge), (), CONTEXTS, ("",) * len(CONTEXTS))], [judge]))
        return
    out.mkdir(parents=True, exist_ok=True)
    if not (out / PERCEPTUAL).exists():
        with cpu_threads(1):
            network, _ = train_tabletop_perceptual(PERCEPTUAL_STEPS, seed=0)
        save_file(network.state_dict(), out / PERCEPTUAL)
    chosen = [rung for rung in rungs(out / PERCEPTUAL) if not only or rung.name in only]
    with ProcessPoolExecutor(jobs) as processes:
        folders = list(processes.map(partial(train, out=out, steps=steps, seed=seed), chosen))
    show(table(chosen, folders))


def show(lines: Iterator[str]) -> None:
    for line in lines:
        click.echo(line)


def train(rung: Rung, out: Path, steps: int, seed: int) -> Path:
    folder = out / f"{rung.name.replace('+ ', '').replace(' ', '-')}-{seed}"
    if not (folder / "model.safetensors").exists():
        train_tokenizer.run(
            TrainTokenizerRequest(
                preset=PRESET,
                assignments=(EVALUATION, *rung.settings),
                data=DATA,
                out=folder,
                steps=steps,
                seed=seed,
                device="cpu",
                workers=0,
            )
        )
    return folder


def table(chosen: list[Rung], folders: list[Path]) -> Iterator[str]:
    data = measures.held_out(HELD_OUT)
    head = "ingredients", "context", "PSNR, dB", "moving, dB", "flicker", "moving with flow 0, dB", "EPE, px (no flow)"
    yield f"| {' | '.join(head)} | FVD, PSNR (paper, table 1) |"
    yield "|---" * (len(head) + 1) + "|"
    still = measures.scores(data, measures.repeated(data))
    yield f"| the first frame repeated | | {still['psnr']:.2f} | {still['psnr_moving']:.2f} | 0 | | | |"
    for rung, folder in zip(chosen, folders, strict=True):
        tokenizer = VideoTokenizer.from_pretrained(folder).freeze()
        assert isinstance(tokenizer, ContextAutoencoder)
        for context, paper in zip(rung.contexts, rung.paper, strict=True):
            yield row(tokenizer, data, rung.name, context, paper)
        if tokenizer.config.flow:
            yield row(tokenizer, data, f"{rung.name}, frame by frame", 0, "")


def row(tokenizer: ContextAutoencoder, data: measures.HeldOut, name: str, context: int, paper: str) -> str:
    scores = measures.scores(data, measures.decoded(tokenizer, data.frames, context))
    without_flow, errors = "", ""
    if context:
        with measures.without_flow():
            decoded = measures.decoded(tokenizer, data.frames, context)
        without_flow = f"{measures.scores(data, decoded)['psnr_moving']:.2f}"
        distance = measures.endpoint_errors(tokenizer, data)
        errors = f"{distance['endpoint_error']:.2f} ({distance['endpoint_error_of_no_flow']:.2f})"
    figures = f"{scores['psnr']:.2f} | {scores['psnr_moving']:.2f} | {scores['flicker']:.2f}"
    return f"| {name} | {context} | {figures} | {without_flow} | {errors} | {paper} |"


if __name__ == "__main__":
    main()
