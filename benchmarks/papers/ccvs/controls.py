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
    NONE,
    OF_TRACKS,
    RUNS,
    STORED,
    Setup,
    finish,
    held_out,
    prepare,
    trained_watcher,
)
from tokenreel.benchmarks.papers.ccvs.control_tip import Watcher
from tokenreel.data.cache.reader import TokenCache
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.common.progress import silence
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import STREAM

QUICK = (30, 6, 12)  # videos, steps, samples


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--tokenizer", required=True, help="Run folder of a trained ccvs-tabletop-tiny.")
@click.option("--steps", default=1500, help="Of each prior of frames.")
@click.option("--videos", default=1200, help="Of two clips each.")
@click.option("--samples", default=240, help="Drawn from each prior.")
@click.option("--context", default=1, help="Frames that a frame is decoded with.")
@click.option("--guidance", "guidances", multiple=True, default=(1.0, 1.5, 2.0, 3.0), help="Of samples of a class.")
@click.option("--top-p", default=1.0, help="Of all samples.")
@click.option("--jobs", default=2, help="Priors trained side by side, on one thread each.")
@click.option("--seeds", multiple=True, default=(0,), help="Of priors and samples; the tables are printed for each.")
@click.option("--quick", is_flag=True, help="A few steps on a few videos, to see that it works.")
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
    os.environ["OMP_NUM_THREADS"] = "1"  # what is spawned inherits it
    prepare(setup, jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), silence) as processes:
        for seed in seeds:
            list(processes.map(partial(finish, setup, seed), RUNS))
            list(processes.map(partial(finish, setup, seed), [OF_TRACKS]))  # it goes on from the prior with states
    with cpu_threads(1):
        views = View(setup, watcher=trained_watcher(setup))
        for seed in seeds:
            click.echo("\n".join(tables(views, seed)))


class View:
    """What the tables are made of: the clips that samples go on from, decoded in several ways."""

    def __init__(self, setup: Setup, watcher: Watcher) -> None:
        self.setup, self.watcher = setup, watcher
        self.cache = TokenCache.open(setup.cache)
        self.tokenizer = VideoTokenizer.from_pretrained(setup.tokenizer).freeze()
        rows = setup.starts(self.cache)
        self.tokens, self.truth = self.cache.read(rows), measures.truth_of(self.cache, rows)

    def codes(self, seed: int, control: str, guidance: float = 1.0) -> np.ndarray:
        return np.load(self.setup.drawn(seed, control, guidance))

    def decoded(self, codes: np.ndarray, end: bool = False) -> np.ndarray:
        return measures.decoded(self.tokenizer, codes, self.truth.frames, self.setup.context, end)

    def bits(self, seed: int, control: str) -> dict[str, np.ndarray]:
        return dict(np.load(self.setup.bits(seed, control)))


def tables(view: View, seed: int) -> Iterator[str]:
    setup, held = view.setup, held_out(view.cache)
    yield f"Seed {seed}: {setup.steps} steps, {setup.videos} videos, {len(held)} clips held out, ± standard errors.\n"
    yield from bits_table(view, seed)
    yield from contact_table(view, seed, measures.truth_of(view.cache, held).contact)
    yield f"{setup.samples} samples, top-p {setup.top_p:g}, decoded with {setup.context} frames of context.\n"
    plain = view.decoded(view.codes(seed, NONE))
    true = view.decoded(view.tokens[STREAM])
    yield from end_table(view, seed, plain, true)
    yield from class_table(view, seed, plain, true)
    yield from state_table(view, seed, plain, true)


def bits_table(view: View, seed: int) -> Iterator[str]:
    """Pairs of clips are compared, so that what clips differ by does not count. What is told a class draws states:
    beside those of frames its bits say nothing.
    """
    without = view.bits(seed, NONE)["with"][:, measures.PRIME :].mean(1)
    yield f"Bits/code after {measures.PRIME} given frame (class: of states); without control {without.mean():.4f}.\n"
    yield from head(
        "control",
        "given",
        "dropped",
        "of another clip",
        "given - without",
        "given - dropped",
        "of another clip - given",
    )
    for control in [*STORED, "end"]:
        clips = {how: bits[:, measures.PRIME :].mean(1) for how, bits in view.bits(seed, control).items()}
        means = [f"{clips[how].mean():.4f}" for how in ("with", "dropped", "permuted")]
        pairs = ("with", "dropped"), ("permuted", "with")
        gains = [figure(clips[first] - clips[second], 4) for first, second in pairs]
        yield row(control, *means, "-" if control == OF_TRACKS else figure(clips["with"] - without, 4), *gains)
    yield ""


def contact_table(view: View, seed: int, contact: np.ndarray) -> Iterator[str]:
    near = measures.around_contacts(contact)
    far = ~near
    far[:, : measures.PRIME] = False
    bits = {"without": view.bits(seed, NONE)["with"], **view.bits(seed, "sound")}
    yield f"Sound: bits/code in the {near.sum()} frames of contacts and after them, and in the {far.sum()} others.\n"
    yield from head("frames", *bits, "with - without", "permuted - with")
    for name, where in {"around contacts": near, "others": far}.items():
        frames = {how: found[where] for how, found in bits.items()}
        gains = frames["with"] - frames["without"], frames["permuted"] - frames["with"]
        yield row(name, *(f"{found.mean():.4f}" for found in frames.values()), *(figure(gain, 4) for gain in gains))
    yield ""


def end_table(view: View, seed: int, plain: np.ndarray, true: np.ndarray) -> Iterator[str]:
    drawn, own = {NONE: view.codes(seed, NONE), "end": view.codes(seed, "end")}, view.tokens[STREAM]
    still = np.repeat(view.truth.frames[:, :1], measures.FRAMES, axis=1)
    lines = {
        "first frame repeated": (still, None),
        "no end": (plain, drawn[NONE]),
        "end given to the decoder alone": (view.decoded(drawn[NONE], end=True), drawn[NONE]),
        "end given to the prior alone": (view.decoded(drawn["end"]), drawn["end"]),
        "end given to both": (view.decoded(drawn["end"], end=True), drawn["end"]),
        "the clip's own codes": (true, own),
        "the clip's own codes, end given to the decoder": (view.decoded(own, end=True), own),
    }
    yield "Point to point: PSNR to the true clip, and codes of the last frame that are the true ones.\n"
    yield from head("what is decoded", "last frame, dB", "frame before, dB", "right codes of the last frame")
    for name, (video, codes) in lines.items():
        quality = [figure(measures.psnr_of_frame(view.truth.frames, video, frame), 2) for frame in (-1, -2)]
        right = "" if codes is None else f"{(codes[:, -1] == own[:, -1]).mean():.1%}"
        yield row(name, *quality, right)
    yield ""


def class_table(view: View, seed: int, plain: np.ndarray, true: np.ndarray) -> Iterator[str]:
    """The classes of samples are drawn; those of the clips that they go on from do not count."""
    setup, wanted = view.setup, view.setup.wanted(view.cache, seed)
    clips = len(np.unique(setup.starts(view.cache)))  # of which some are there several times
    hits = {"the clip's own codes": (view.watcher.classes(true) == view.tokens["class"].reshape(-1))[:clips]}
    for guidance in setup.guidances:
        video = view.decoded(view.codes(seed, "class", guidance))
        hits[f"class given, guidance {guidance:g}"] = view.watcher.classes(video) == wanted
    hits["no class"] = view.watcher.classes(plain) == wanted
    yield "Class: how many a small classifier of the tip's track in decoded videos recognises.\n"
    yield from head("what is decoded", "recognised", "beside the clip's own codes")
    reference = next(iter(hits.values())).mean()
    for name, hit in hits.items():
        yield row(name, figure(100 * hit, 1, " %"), f"{hit.mean() / reference:.0%}" if reference else "-")
    yield ""


def state_table(view: View, seed: int, plain: np.ndarray, true: np.ndarray) -> Iterator[str]:
    videos = {
        "the clip's own codes": true,
        "states given": view.decoded(view.codes(seed, "state")),
        "no states": plain,
    }
    yield "State: distance of the tip found in decoded videos from where it is to be, in pixels.\n"
    yield from head("what is decoded", "frames after the given one", "last frame")
    for name, video in videos.items():
        off = measures.PIXELS * (view.watcher.tips(video) - view.truth.tip)[:, measures.PRIME :]
        distance = np.linalg.norm(off, axis=2)
        yield row(name, figure(distance.mean(1), 2), figure(distance[:, -1], 2))
    yield ""


def figure(values: np.ndarray, digits: int, unit: str = "") -> str:
    """Mean and standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}{unit}"


def head(*names: str) -> Iterator[str]:
    yield row(*names)
    yield "|" + "---|" * len(names)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
