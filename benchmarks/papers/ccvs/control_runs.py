"""The runs that `controls.py` compares: tokens with controls, a prior for each control, its bits and samples.

Results of finished runs are kept in files; finished runs are not repeated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.benchmarks.papers.ccvs import control_measures as measures
from tokenreel.benchmarks.papers.ccvs.control_tip import TipModel
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
STORED = ("class", "state", "sound")  # controls whose streams are in the cache
RUNS = ("state", "sound", "end", NONE)  # priors of frames; those that take longest first
CONTROL_PRIOR = "class"  # samples states, on which the prior of states is conditioned; trained as in its preset
DROP_CONTROLS = 0.1  # fraction of training clips without their controls
EVALUATION = "training={validate_every: 1000000, sample_every: 1000000, checkpoint_every: 300, keep_checkpoints: 1}"
TIP_CLIPS, TIP_STEPS = 600, 1000  # decoded training clips and steps of the networks that find the tip


@dataclass(frozen=True)
class Setup:
    """Paths and settings of all runs."""

    out: Path  # for this number of videos
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
        return f"tabletop:?videos={self.videos}&frames={measures.VIDEO_FRAMES}&size={measures.PIXELS}"

    @property
    def cache(self) -> Path:
        return self.out / "tokens.zarr"

    def folder(self, seed: int, control: str) -> Path:
        return self.out / f"{self.steps}-steps-seed{seed}" / control

    def bits_file(self, seed: int, control: str) -> Path:
        return self.folder(seed, control) / "bits.npz"

    def samples_file(self, seed: int, control: str, guidance: float = 1.0) -> Path:
        return self.folder(seed, control) / f"{self.samples}-samples-guidance-{guidance:g}-top-p-{self.top_p:g}.npy"

    def starts(self, cache: TokenCache) -> np.ndarray:
        """Rows that samples continue: held-out clips at the start of their videos, whose first frame is independent of
        the class.
        """
        rows = cache.rows("validation")
        rows = rows[cache.column("first_frame")[rows] == 0]
        return rows[np.arange(self.samples) % len(rows)]

    def target_classes(self, cache: TokenCache, seed: int) -> np.ndarray:
        """int64 [samples]: a random class for each sample, independent of its clip's."""
        classes = cache.spec.stream("class").codebook_size
        return np.random.default_rng(seed).permutation(np.arange(self.samples) % classes)


def prepare(setup: Setup, jobs: int) -> None:
    """Fits the controls, and writes a cache with the tokens of the videos and of all controls."""
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
    """Trains the prior of this control, scores it and samples from it, unless that is done already."""
    folder = setup.folder(seed, control)
    if not (folder / "prior" / "config.json").exists():
        conditioned = control != NONE
        dropped = DROP_CONTROLS if conditioned else 0.0
        given = f"given_frames: {measures.GIVEN_FRAMES}, validation_given_frames: {measures.GIVEN_FRAMES}"
        settings = f"training={{drop_controls: {dropped}, {given}}}"
        train_prior.run(
            TrainPriorRequest(
                preset=f"{PRESET}-{control}" if conditioned else PRESET,
                assignments=(EVALUATION, settings),
                cache=setup.cache,
                out=folder / "prior",
                steps=None if control == CONTROL_PRIOR and not setup.quick else setup.steps,
                seed=seed,
                device="cpu",
            )
        )
    cache, prior = TokenCache.open(setup.cache), Prior.from_pretrained(folder / "prior").eval()
    condition = None if control == NONE else control
    if not setup.bits_file(seed, control).exists():
        partial = folder / "partial.npz"  # renamed once it is complete
        np.savez(partial, allow_pickle=False, **measures.bits_by_frame(prior, cache, held_out(cache), condition))
        partial.rename(setup.bits_file(seed, control))
    tokens = cache.read(setup.starts(cache))
    priors = [prior]
    if control == CONTROL_PRIOR:
        priors.append(Prior.from_pretrained(setup.folder(seed, "state") / "prior").eval())
        tokens["class"] = setup.target_classes(cache, seed).reshape(-1, 1, 1, 1, 1)
    for guidance in {"class": setup.guidances, "sound": ()}.get(control, (1.0,)):  # sound is scored, but not sampled
        sampling = measures.Sampling(guidance, setup.top_p, seed)
        measures.samples(priors, tokens, condition, sampling, setup.samples_file(seed, control, guidance))


def held_out(cache: TokenCache) -> np.ndarray:
    return measures.neighbours_of_other_videos(cache, cache.rows("validation"))


def trained_tip_model(setup: Setup) -> TipModel:
    """Trains on clips decoded from their own tokens, as the samples that it judges are decoded too."""
    cache = TokenCache.open(setup.cache)
    rows = cache.rows("train")
    chosen = evenly_spaced(np.arange(len(rows)), TIP_CLIPS)
    tokenizer = VideoTokenizer.from_pretrained(setup.tokenizer).freeze()
    codes, truth = cache.read(rows[chosen], [STREAM])[STREAM], measures.ground_truth(cache, rows[chosen])
    videos = measures.decoded(tokenizer, codes, truth.frames, setup.context)
    classes = cache.read(rows, ["class"])["class"].reshape(-1).astype(np.int64)
    steps = 10 * setup.steps if setup.quick else TIP_STEPS
    return TipModel(videos, chosen, measures.tips_of(cache, rows), classes, steps)
