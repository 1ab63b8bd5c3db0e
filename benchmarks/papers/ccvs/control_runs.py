"""The runs that `controls.py` compares: tokens with controls, a prior for each control, its bits and samples.

Finished runs are kept in files and not repeated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.benchmarks.papers.ccvs import control_measures as measures
from tokenreel.benchmarks.papers.ccvs.control_tip import Watcher
from tokenreel.config import load_preset
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.order import evenly_spaced
from tokenreel.pipelines.commands import fit_controls, tokenize_dataset, train_prior
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import FitControlsRequest, TrainPriorRequest
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import STREAM

PRESET, NONE = "ccvs-tabletop-tiny", "none"
STORED = ("class", "state", "sound")  # controls that are tracks of the cache
RUNS = ("state", "sound", "end", NONE)  # those that take longest first; of frames
OF_TRACKS = "class"  # it draws states, which the prior with states follows; trained as its preset says
DROPPED = 0.1  # share of training clips without their controls
LOOKS = "training={validate_every: 1000000, sample_every: 1000000, checkpoint_every: 300, keep_checkpoints: 1}"
WATCHED, WATCHER_STEPS = 600, 1000  # training clips whose decoded frames the tip's finder learns from


@dataclass(frozen=True)
class Setup:
    """All that a process needs to know."""

    out: Path  # of this number of videos
    tokenizer: str
    videos: int
    steps: int
    samples: int
    context: int
    guidances: tuple[float, ...]
    top_p: float
    quick: bool

    @property
    def data(self) -> str:
        return f"tabletop:?videos={self.videos}&frames={measures.LENGTH}&size={measures.PIXELS}"

    @property
    def cache(self) -> Path:
        return self.out / "tokens.zarr"

    def folder(self, seed: int, control: str) -> Path:
        return self.out / f"{self.steps}-steps-seed{seed}" / control

    def bits(self, seed: int, control: str) -> Path:
        return self.folder(seed, control) / "bits.npz"

    def drawn(self, seed: int, control: str, guidance: float = 1.0) -> Path:
        return self.folder(seed, control) / f"{self.samples}-samples-guidance-{guidance:g}-top-p-{self.top_p:g}.npy"

    def starts(self, cache: TokenCache) -> np.ndarray:
        """Rows that samples go on from: held-out clips that begin as their videos do, where nothing shows the class."""
        rows = cache.rows("validation")
        rows = rows[cache.column("first_frame")[rows] == 0]
        return rows[np.arange(self.samples) % len(rows)]

    def wanted(self, cache: TokenCache, seed: int) -> np.ndarray:
        """int64 [samples]: a class for each, whatever its clip's is."""
        classes = cache.spec.stream("class").codebook_size
        return np.random.default_rng(seed).permutation(np.arange(self.samples) % classes)


def prepare(setup: Setup, jobs: int) -> None:
    """The controls, and a cache with the codes of the videos and of all controls."""
    controls = setup.out / "controls"
    if not (controls / "config.json").exists():
        sections = {name: load_preset(f"{PRESET}-{name}")["controls"][name] for name in STORED}
        setting = f"controls={json.dumps(sections)}"
        fit_controls.run(FitControlsRequest(preset=PRESET, assignments=(setting,), data=setup.data, out=controls))
    tokenize_dataset.run(
        TokenizeRequest(
            tokenizer=setup.tokenizer,
            data=setup.data,
            out=setup.cache,
            controls=str(controls),
            workers=jobs,
            device="cpu",
            allow_collapsed=setup.quick,
        )
    )


def finish(setup: Setup, seed: int, control: str) -> None:
    """Trains the prior of that control, scores it, and draws its samples, as far as that was not done before."""
    folder = setup.folder(seed, control)
    if not (folder / "prior" / "config.json").exists():
        steered = control != NONE
        settings = f"training={{drop_controls: {DROPPED if steered else 0.0}, given_frames: {measures.PRIME}}}"
        train_prior.run(
            TrainPriorRequest(
                preset=f"{PRESET}-{control}" if steered else PRESET,
                assignments=(LOOKS, settings),
                cache=setup.cache,
                out=folder / "prior",
                steps=None if control == OF_TRACKS and not setup.quick else setup.steps,
                seed=seed,
                device="cpu",
            )
        )
    cache, prior = TokenCache.open(setup.cache), Prior.from_pretrained(folder / "prior").eval()
    told = None if control == NONE else control
    if not setup.bits(seed, control).exists():
        partial = folder / "partial.npz"  # renamed once it is whole
        np.savez(partial, allow_pickle=False, **measures.bits_by_frame(prior, cache, held_out(cache), told))
        partial.rename(setup.bits(seed, control))
    tokens = cache.read(setup.starts(cache))
    priors = [prior]
    if control == OF_TRACKS:
        priors.append(Prior.from_pretrained(setup.folder(seed, "state") / "prior").eval())
        tokens["class"] = setup.wanted(cache, seed).reshape(-1, 1, 1, 1, 1)
    for guidance in {"class": setup.guidances, "sound": ()}.get(control, (1.0,)):  # of sound there are bits only
        sampling = measures.Sampling(guidance, setup.top_p, seed)
        measures.samples(priors, tokens, told, sampling, setup.drawn(seed, control, guidance))


def held_out(cache: TokenCache) -> np.ndarray:
    return measures.strangers(cache, cache.rows("validation"))


def trained_watcher(setup: Setup) -> Watcher:
    """It sees clips decoded from their own codes, as what it is to judge is decoded."""
    cache = TokenCache.open(setup.cache)
    rows = cache.rows("train")
    watched = evenly_spaced(np.arange(len(rows)), WATCHED)
    tokenizer = VideoTokenizer.from_pretrained(setup.tokenizer).freeze()
    codes, truth = cache.read(rows[watched], [STREAM])[STREAM], measures.truth_of(cache, rows[watched])
    videos = measures.decoded(tokenizer, codes, truth.frames, setup.context)
    classes = cache.read(rows, ["class"])["class"].reshape(-1).astype(np.int64)
    steps = 10 * setup.steps if setup.quick else WATCHER_STEPS
    return Watcher(videos, watched, measures.tips_of(cache, rows), classes, steps)
