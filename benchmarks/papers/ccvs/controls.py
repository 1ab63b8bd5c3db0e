r"""The effect of controls: bits and samples of priors given classes, states, sound or end frames, as Markdown.

    python -m tokenreel.benchmarks.papers.ccvs.controls --out ccvs-controls --tokenizer runs/ccvs-tokenizer \
        [--seeds 0] [--jobs 2]
    python -m tokenreel.benchmarks.papers.ccvs.controls --out ccvs-quick --tokenizer runs/ccvs-tokenizer --quick

TOKENIZER is a trained ccvs-tabletop-tiny; the priors are those of ccvs-tabletop-tiny and its variants. Priors of frames
are trained alike, the control prior of classes and states as in its preset, all on the videos' 16-frame clips, of which
a tenth is held out, with one given frame. Standard errors are over clips, not over trainings, which more seeds show.
OUT keeps tokens, priors and samples: the same command continues an interrupted run. Use a new OUT after a change of the
code or of the tokenizer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np

from tokenreel.benchmarks.papers.ccvs import control_measures as measures
from tokenreel.benchmarks.papers.ccvs.control_runs import (
    CONTROL_PRIOR,
    NONE,
    RUNS,
    STORED,
    Setup,
    finish,
    held_out,
    prepare,
    trained_tip_model,
)
from tokenreel.benchmarks.papers.ccvs.control_tip import TipModel
from tokenreel.data.cache.reader import TokenCache
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.common.progress import silence
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import STREAM

QUICK = (30, 6, 12)  # videos, steps, samples


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--tokenizer", required=True, help="Run folder of a trained ccvs-tabletop-tiny.")
@click.option("--steps", default=1500, help="Training steps of each prior of frames.")
@click.option("--videos", default=1200, help="Number of videos, of two clips each.")
@click.option("--samples", default=240, help="Number of samples from each prior.")
@click.option("--context", default=1, help="Number of previous frames used as decoder context.")
@click.option("--guidance", "guidances", multiple=True, default=(1.0, 1.5, 2.0, 3.0), help="Guidance, given a class.")
@click.option("--top-p", default=1.0, help="Nucleus of all samples.")
@click.option("--jobs", default=2, help="Priors trained in parallel, on one thread each.")
@click.option("--seeds", multiple=True, default=(0,), help="Seed of priors and samples; tables are printed for each.")
@click.option("--quick", is_flag=True, help="A few steps on a few videos, as a smoke test.")
def main(
    out: Path,
    tokenizer: str,
    steps: int,
    videos: int,
    samples: int,
    context: int,
    guidances: tuple[float, ...],
    top_p: float,
    jobs: int,
    seeds: tuple[int, ...],
    quick: bool,
) -> None:
    if quick:
        (videos, steps, samples), guidances = QUICK, guidances[:2]
    root = out / f"{videos}-videos"
    setup = Setup(root, tokenizer, videos, steps, samples, context, guidances, top_p, quick)
    os.environ["OMP_NUM_THREADS"] = "1"  # spawned processes inherit it
    prepare(setup, jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), silence) as processes:
        for seed in seeds:
            list(processes.map(partial(finish, setup, seed), RUNS))
            list(processes.map(partial(finish, setup, seed), [CONTROL_PRIOR]))  # cascade with the prior of states
    with cpu_threads(1):
        view = View(setup, tip_model=trained_tip_model(setup))
        for seed in seeds:
            click.echo("\n".join(tables(view, seed)))


class View:
    """The data of the tables: the clips that samples continue, and decoded videos."""

    def __init__(self, setup: Setup, tip_model: TipModel) -> None:
        self.setup, self.tip_model = setup, tip_model
        self.cache = TokenCache.open(setup.cache)
        self.tokenizer = VideoTokenizer.from_pretrained(setup.tokenizer).freeze()
        rows = setup.starts(self.cache)
        self.tokens, self.truth = self.cache.read(rows), measures.ground_truth(self.cache, rows)

    def codes(self, seed: int, control: str, guidance: float = 1.0) -> np.ndarray:
        return np.load(self.setup.samples_file(seed, control, guidance))

    def decoded(self, codes: np.ndarray, end: bool = False) -> np.ndarray:
        return measures.decoded(self.tokenizer, codes, self.truth.frames, self.setup.context, end)

    def bits(self, seed: int, control: str) -> dict[str, np.ndarray]:
        return dict(np.load(self.setup.bits_file(seed, control)))


def tables(view: View, seed: int) -> Iterator[str]:
    setup, held = view.setup, held_out(view.cache)
    yield f"Seed {seed}: {setup.steps} steps, {setup.videos} videos, {len(held)} clips held out, ± standard errors.\n"
    yield from bits_table(view, seed)
    yield from contact_table(view, seed, measures.ground_truth(view.cache, held).contact)
    yield f"{setup.samples} samples, top-p {setup.top_p:g}, decoded with {setup.context} frames of context.\n"
    plain = view.decoded(view.codes(seed, NONE))
    true = view.decoded(view.tokens[STREAM])
    yield from end_table(view, seed, plain, true)
    yield from class_table(view, seed, plain, true)
    yield from state_table(view, seed, plain, true)


def bits_table(view: View, seed: int) -> Iterator[str]:
    """Bits/code are compared clip by clip, so that differences between clips cancel. The prior given a class predicts
    states, so its bits are not compared to those of frames.
    """
    baseline = view.bits(seed, NONE)["given"][:, measures.GIVEN_FRAMES :].mean(1)
    given = f"Bits/code after {measures.GIVEN_FRAMES} given frame (class: of states)"
    yield f"{given}; without control {baseline.mean():.4f}.\n"
    yield from header(
        "control",
        "given",
        "dropped",
        "of another clip",
        "given - no control",
        "given - dropped",
        "of another clip - given",
    )
    for control in [*STORED, "end"]:
        clips = {how: bits[:, measures.GIVEN_FRAMES :].mean(1) for how, bits in view.bits(seed, control).items()}
        means = [f"{clips[how].mean():.4f}" for how in ("given", "dropped", "permuted")]
        pairs = ("given", "dropped"), ("permuted", "given")
        gains = [figure(clips[first] - clips[second], 4) for first, second in pairs]
        gain = "-" if control == CONTROL_PRIOR else figure(clips["given"] - baseline, 4)
        yield row(control, *means, gain, *gains)
    yield ""


def contact_table(view: View, seed: int, contact: np.ndarray) -> Iterator[str]:
    near = measures.around_contacts(contact)
    far = ~near
    far[:, : measures.GIVEN_FRAMES] = False
    bits = {"no control": view.bits(seed, NONE)["given"], **view.bits(seed, "sound")}
    yield f"Sound: bits/code in the {near.sum()} frames of contacts and after them, and in the {far.sum()} others.\n"
    yield from header("frames", *bits, "given - no control", "permuted - given")
    for name, mask in {"around contacts": near, "others": far}.items():
        frames = {how: values[mask] for how, values in bits.items()}
        gains = frames["given"] - frames["no control"], frames["permuted"] - frames["given"]
        yield row(name, *(f"{values.mean():.4f}" for values in frames.values()), *(figure(gain, 4) for gain in gains))
    yield ""


def end_table(view: View, seed: int, plain: np.ndarray, true: np.ndarray) -> Iterator[str]:
    sampled, own = {NONE: view.codes(seed, NONE), "end": view.codes(seed, "end")}, view.tokens[STREAM]
    still = np.repeat(view.truth.frames[:, :1], measures.FRAMES, axis=1)
    rows = {
        "first frame repeated": (still, None),
        "no end": (plain, sampled[NONE]),
        "end given to the decoder alone": (view.decoded(sampled[NONE], end=True), sampled[NONE]),
        "end given to the prior alone": (view.decoded(sampled["end"]), sampled["end"]),
        "end given to both": (view.decoded(sampled["end"], end=True), sampled["end"]),
        "the clip's own tokens": (true, own),
        "the clip's own tokens, end given to the decoder": (view.decoded(own, end=True), own),
    }
    yield "Point to point: PSNR to the true clip, and correct tokens of the last frame.\n"
    yield from header("decoded video", "last frame, dB", "previous frame, dB", "correct tokens of the last frame")
    for name, (video, codes) in rows.items():
        quality = [figure(measures.psnr_of_frame(view.truth.frames, video, frame), 2) for frame in (-1, -2)]
        correct = "" if codes is None else f"{(codes[:, -1] == own[:, -1]).mean():.1%}"
        yield row(name, *quality, correct)
    yield ""


def class_table(view: View, seed: int, plain: np.ndarray, true: np.ndarray) -> Iterator[str]:
    """Samples are given random classes, not those of the clips that they continue."""
    setup, targets = view.setup, view.setup.target_classes(view.cache, seed)
    clips = len(np.unique(setup.starts(view.cache)))  # clips may repeat
    hits = {"the clip's own tokens": (view.tip_model.classes(true) == view.tokens["class"].reshape(-1))[:clips]}
    for guidance in setup.guidances:
        video = view.decoded(view.codes(seed, "class", guidance))
        hits[f"class given, guidance {guidance:g}"] = view.tip_model.classes(video) == targets
    hits["no class"] = view.tip_model.classes(plain) == targets
    yield "Class: fraction recognised by a small classifier of the tip's trajectory in decoded videos.\n"
    yield from header("decoded video", "recognised", "relative to the clip's own tokens")
    reference = next(iter(hits.values())).mean()
    for name, correct in hits.items():
        yield row(name, figure(100 * correct, 1, " %"), f"{correct.mean() / reference:.0%}" if reference else "-")
    yield ""


def state_table(view: View, seed: int, plain: np.ndarray, true: np.ndarray) -> Iterator[str]:
    videos = {
        "the clip's own tokens": true,
        "states given": view.decoded(view.codes(seed, "state")),
        "no states": plain,
    }
    yield "State: distance in pixels between the tip found in decoded videos and its true position.\n"
    yield from header("decoded video", "frames after the given one", "last frame")
    for name, video in videos.items():
        offset = measures.PIXELS * (view.tip_model.tips(video) - view.truth.tip)[:, measures.GIVEN_FRAMES :]
        distance = np.linalg.norm(offset, axis=2)
        yield row(name, figure(distance.mean(1), 2), figure(distance[:, -1], 2))
    yield ""


def figure(values: np.ndarray, digits: int, unit: str = "") -> str:
    """Formats mean and standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}{unit}"


def header(*names: str) -> Iterator[str]:
    yield row(*names)
    yield "|" + "---|" * len(names)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
