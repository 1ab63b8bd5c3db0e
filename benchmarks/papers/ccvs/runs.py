"""The runs of CCVS's tables 2 and 5 and figure 3: tokenizers with caches of their tokens, priors on such caches, and
samples that continue first frames; all measured on held-out clips.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.benchmarks.papers.ccvs import measures, unquantized
from tokenreel.benchmarks.papers.ccvs.grid import PIXELS, Run, Setup, Sizes
from tokenreel.benchmarks.papers.grid import Scores
from tokenreel.config import from_mapping
from tokenreel.data.pixels import to_model
from tokenreel.pipelines.commands import fit_controls, tokenize_dataset, train_prior, train_tokenizer
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.common.settings import resolve
from tokenreel.pipelines.decoding.tokens_to_video import decode_tokens
from tokenreel.pipelines.generation.cascade import generate_tokens
from tokenreel.pipelines.generation.config import GenerationConfig
from tokenreel.pipelines.generation.given_tokens import given_tokens
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import FitControlsRequest, TrainPriorRequest, TrainTokenizerRequest
from tokenreel.pipelines.training.prior_objective import PriorTrainingConfig
from tokenreel.priors.base import Prior
from tokenreel.priors.sampling.logits import SamplingConfig, StreamSampling
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import STREAM, ContextAutoencoder
from tokenreel.tokenizers.controls.controls import Controls

PRESET, STATE = "ccvs-tabletop-tiny", "state"
BATCH = 24  # videos sampled or decoded at a time
EVALUATION = (
    "training={validate_every: 1000000, sample_every: 1000000, sample_clips: 1, checkpoint_every: 250, "
    "keep_checkpoints: 1}"
)
FEW_CLIPS, ALL_CLIPS = "training.validation_clips=4", "training.validation_clips=1000000"


@dataclass(frozen=True)
class StateCodebooks(Run):
    """The codebooks of the arm's position."""

    needs = ()

    def name(self, sizes: Sizes) -> str:
        return STATE

    def execute(self, setup: Setup) -> Scores:
        frames = f"data.frames={setup.sizes.frames}"
        fitted = fit_controls.run(
            FitControlsRequest(
                preset=f"{PRESET}-{STATE}",
                assignments=(frames,),
                data=setup.sizes.data,
                out=setup.path(self),
                workers=0,
            )
        )
        return dict(fitted["controls"][STATE])

    def load(self, setup: Setup) -> Controls:
        return Controls.from_pretrained(setup.path(self))


@dataclass(frozen=True)
class Tokenizer(Run):
    """The preset's tokenizer with other codebook sizes or levels, and its cache. One more level halves the grid."""

    codebook_size: int | None  # None: no quantizer, and so no cache
    multipliers: tuple[int, ...]

    needs = (StateCodebooks(),)

    @property
    def side(self) -> int:
        """h = w"""
        return PIXELS // 2 ** (len(self.multipliers) - 1)

    def name(self, sizes: Sizes) -> str:
        codebook = "unquantized" if self.codebook_size is None else f"K{self.codebook_size}"
        return f"{self.side}x{self.side}-{codebook}-{sizes.tokenizer_steps}-steps/tokenizer"

    def cache(self, setup: Setup) -> Path:
        return setup.path(self).parent / "tokens.zarr"

    def load(self, setup: Setup) -> ContextAutoencoder:
        with unquantized.without_quantizer(self.codebook_size is None):
            tokenizer = VideoTokenizer.from_pretrained(setup.path(self)).freeze()
        assert isinstance(tokenizer, ContextAutoencoder)
        return tokenizer

    def execute(self, setup: Setup) -> Scores:
        with unquantized.without_quantizer(self.codebook_size is None):
            self._train(setup)
        if self.codebook_size is not None:
            self._tokenize(setup)
        return self._score(setup)

    def _train(self, setup: Setup) -> None:
        quantizer = [] if self.codebook_size is None else [f"tokenizer.quantizer.codebook_size={self.codebook_size}"]
        levels = f"tokenizer.multipliers={list(self.multipliers)}"
        train_tokenizer.run(
            TrainTokenizerRequest(
                preset=PRESET,
                assignments=(EVALUATION, FEW_CLIPS, f"data.frames={setup.sizes.frames}", levels, *quantizer),
                data=setup.sizes.data,
                out=setup.path(self),
                steps=setup.sizes.tokenizer_steps,
                seed=setup.seed,
                device="cpu",
                workers=0,
            )
        )

    def _tokenize(self, setup: Setup) -> None:
        tokenize_dataset.run(
            TokenizeRequest(
                tokenizer=str(setup.path(self)),
                controls=str(setup.path(StateCodebooks())),
                data=setup.sizes.data,
                out=self.cache(setup),
                device="cpu",
                workers=1,
                allow_collapsed=True,  # codebook usage is one of the scores
            )
        )

    def _score(self, setup: Setup) -> Scores:
        tokenizer, data = self.load(setup), measures.held_out(setup.sizes.clips, setup.sizes.frames, PIXELS)
        scores: Scores = {}
        for name, context in (("one", 1), ("default", tokenizer.context)):
            quality = measures.scores(data, measures.decoded(tokenizer, data.frames, context))
            scores |= {f"{name}/{score}": value for score, value in quality.items()}
        if self.codebook_size is not None:
            scores["in_use"] = len(np.unique(_encoded(tokenizer, data.frames)))
        return scores | {"context": tokenizer.context}


@dataclass(frozen=True)
class GPTRun(Run):
    """The preset's prior in another shape; if `conditioned`, on the arm's position in each frame."""

    tokenizer: Tokenizer
    depth: int
    heads: int
    positions: str = "decomposed"
    conditioned: bool = False

    @property
    def needs(self) -> Sequence[Run]:
        return (self.tokenizer,)

    def name(self, sizes: Sizes) -> str:
        shape = f"{self.depth}x{self.heads}-{self.positions}{'-state' if self.conditioned else ''}"
        return str(Path(self.tokenizer.name(sizes)).with_name(f"{shape}-{sizes.prior_steps}-steps"))

    def load(self, setup: Setup) -> Prior:
        return Prior.from_pretrained(str(setup.path(self))).eval()

    def execute(self, setup: Setup) -> Scores:
        shape = {"depth": self.depth, "heads": self.heads, "positions": self.positions}
        controls = (
            {"controls": [STATE], "latest_controls": True} if self.conditioned else {}
        )  # as in the preset with states
        summary = train_prior.run(
            TrainPriorRequest(
                preset=PRESET,
                assignments=(
                    *(EVALUATION, ALL_CLIPS, "tokenizer=null"),  # the preset's is not that of this cache
                    "training.drop_controls=0.0",  # they are dropped for guidance, which is not used
                    f"prior={json.dumps(shape | controls)}",
                ),
                cache=self.tokenizer.cache(setup),
                out=setup.path(self),
                steps=setup.sizes.prior_steps,
                seed=setup.seed,
                device="cpu",
            )
        )
        return _numbers(summary)


@dataclass(frozen=True)
class Sampled(Run):
    """Samples that continue first frames, with all true states (if the prior is conditioned) and without."""

    prior: GPTRun
    top_k: int = 0  # of tokens of frames (0: all)
    state_top_k: int = 0

    @property
    def needs(self) -> Sequence[Run]:
        return (self.prior,)

    def name(self, sizes: Sizes) -> str:
        counts = f"{sizes.samples}-of-{sizes.starts}-top-{self.top_k}-state-{self.state_top_k}"
        return f"{self.prior.name(sizes)}-sampled-{counts}"

    def execute(self, setup: Setup) -> Scores:
        sizes, clips = setup.sizes, _Clips(setup, self.prior.tokenizer)
        prior, config = self.prior.load(setup), self._sampling()
        scores: Scores = {}
        if self.prior.conditioned:
            candidates = {"state": clips.sample(prior, config, [STATE], 1), "true_codes": clips.tokens[STREAM]}
            for name, codes in candidates.items():
                scores[f"{name}/psnr"] = measures.scores(clips.data, clips.decoded(codes, 1))["psnr"]
        codes = clips.sample(prior, config, [], sizes.samples)
        scores |= prediction_scores(clips.data, clips.decoded(codes, sizes.samples), sizes.samples)
        return scores | {"moving_codes": _changed(codes), "true_moving_codes": _changed(clips.tokens[STREAM])}

    def _sampling(self) -> SamplingConfig:
        streams = {STATE: StreamSampling(top_k=self.state_top_k)} if self.prior.conditioned else {}
        return SamplingConfig(top_k=self.top_k, streams=streams)


@dataclass(frozen=True)
class Regressed(Run):
    """A transformer that predicts latents that are not quantized, and its continuations of first frames."""

    tokenizer: Tokenizer
    depth: int
    heads: int

    @property
    def needs(self) -> Sequence[Run]:
        return (self.tokenizer,)

    def name(self, sizes: Sizes) -> str:
        folder = Path(self.tokenizer.name(sizes)).parent
        return f"{folder}/{self.depth}x{self.heads}-regressed-{sizes.prior_steps}-steps-{sizes.starts}"

    def execute(self, setup: Setup) -> Scores:
        sizes = setup.sizes
        tokenizer, data = self.tokenizer.load(setup), measures.held_out(sizes.starts, sizes.frames, PIXELS)
        sections = resolve(
            PRESET, None, (), {"training.steps": sizes.prior_steps, "training.seed": setup.seed}, "prior"
        )
        settings = from_mapping(PriorTrainingConfig, sections["training"], "training")
        with cpu_threads(1):
            clips = unquantized.training_latents(tokenizer, sizes.videos, sizes.frames)
            prior = unquantized.train(clips, settings, (self.depth, sections["prior"]["width"], self.heads))
            video = unquantized.predicted(prior, tokenizer, data.frames)
        return prediction_scores(data, video, 1)


@dataclass(frozen=True)
class Speed(Run):
    """Frames per second of one video after its first frame, by processor time of one thread. Best executed alone."""

    prior: GPTRun

    @property
    def needs(self) -> Sequence[Run]:
        return (self.prior,)

    def name(self, sizes: Sizes) -> str:
        return f"{self.prior.name(sizes)}-speed"

    def execute(self, setup: Setup) -> Scores:
        clips, prior = _Clips(setup, self.prior.tokenizer, starts=1), self.prior.load(setup)
        frames = setup.sizes.frames - 1
        with cpu_threads(1):
            clips.decoded(clips.tokens[STREAM], 1)  # the first call is slower
            started = time.thread_time()
            codes = clips.sample(prior, SamplingConfig(), [], 1)
            sampled = time.thread_time()
            clips.decoded(codes, 1)
            decoded = time.thread_time()
        rates = {"sampling": frames / (sampled - started), "decoding": frames / (decoded - sampled)}
        return {**rates, "both": frames / (decoded - started)}


class _Clips:
    """Held-out clips, their tokens and states, and samples that continue their first frames."""

    def __init__(self, setup: Setup, tokenizer: Tokenizer, starts: int | None = None) -> None:
        self.seed, self.tokenizer = setup.seed, tokenizer.load(setup)
        self.data = measures.held_out(starts or setup.sizes.starts, setup.sizes.frames, PIXELS)
        states, encoder = [clip.state for clip in self.data.clips], StateCodebooks().load(setup)
        self.tokens = {
            STREAM: _encoded(self.tokenizer, self.data.frames),
            STATE: np.stack([encoder.encode({STATE: state})[STATE] for state in states]),
        }

    def sample(self, prior: Prior, sampling: SamplingConfig, controls: Sequence[str], samples: int) -> np.ndarray:
        """Tokens [N x samples, t, h, w, q], `samples` for each first frame, given the true `controls`."""
        tokens = {name: np.repeat(codes, samples, 0) for name, codes in self.tokens.items()}
        given = given_tokens([prior], tokens, 1, controls)
        config = GenerationConfig(len(tokens[STREAM]), 1, seed=self.seed, batch=BATCH, sampling=sampling)
        return generate_tokens([prior], given, config).tokens[STREAM].numpy()

    def decoded(self, codes: np.ndarray, samples: int) -> np.ndarray:
        """uint8 [N x samples, T, H, W, 3], decoded with the true first frames."""
        first = np.repeat(self.data.frames[:, :1], samples, 0)
        parts = [slice(start, start + BATCH) for start in range(0, len(codes), BATCH)]
        videos = [decode_tokens(self.tokenizer, {STREAM: codes[part]}, given=first[part]) for part in parts]
        return np.concatenate(videos)


def prediction_scores(data: measures.HeldOut, video: np.ndarray, samples: int) -> Scores:
    """PSNR to the true continuation, and the paper's DIV: the mean distance of pixels between samples of one start."""
    true = replace(data, frames=np.repeat(data.frames, samples, 0))
    scores = {"psnr": measures.scores(true, video)["psnr"], "diversity": 0.0}
    if samples > 1:
        later = video[:, 1:].reshape(len(data.frames), samples, *video[:, 1:].shape[1:]).astype(np.int16)
        pairs = [np.abs(later[:, a] - later[:, b]).mean() for a, b in combinations(range(samples), 2)]
        scores["diversity"] = float(np.mean(pairs))
    return scores


def _encoded(tokenizer: ContextAutoencoder, frames: np.ndarray) -> np.ndarray:
    """uint8 [N, T, H, W, 3] -> tokens [N, t, h, w, q]"""
    parts = [frames[first : first + BATCH] for first in range(0, len(frames), BATCH)]
    return np.concatenate([tokenizer.encode(to_model(part))[STREAM].numpy() for part in parts])


def _changed(codes: np.ndarray) -> float:
    """Fraction of the tokens [N, t, h, w, q] that differ from the token at the same position one step before."""
    return float((codes[:, 1:] != codes[:, :-1]).mean())


def _numbers(summary: Mapping[str, Any]) -> Scores:
    return {name: value for name, value in summary.items() if isinstance(value, int | float)}
