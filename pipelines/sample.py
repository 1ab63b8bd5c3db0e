"""`tokenreel sample`: prior -> token file. The codes of given frames come out of a cache; no pixel is seen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.errors import CacheError, ConfigError
from tokenreel.pipelines.device import choose_device
from tokenreel.pipelines.output_folder import fresh_folder
from tokenreel.pipelines.progress import Progress
from tokenreel.pipelines.spread import spread
from tokenreel.priors.base import Prior
from tokenreel.priors.choice import SamplingConfig
from tokenreel.priors.sampling import Samples, sample_video


@dataclass(frozen=True)
class Drawing:
    """How many samples to draw, how long, and how."""

    num: int  # samples
    prime: int  # given frames
    frames: int | None = None  # of each sample, given ones included; None: the clip that the prior was trained on
    seed: int = 0
    batch: int = 16  # samples drawn at once; the codes do not depend on it
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < self.prime:
            raise ConfigError(f"--frames {self.frames} must be at least the given frames (--prime {self.prime})")


def run(
    prior: str,
    cache: Path,
    out: Path,
    clips: int | None = None,
    split: str | None = "validation",
    device: str | None = None,
    revision: str | None = None,
    **flags: Any,
) -> dict[str, Any]:
    """Draws samples that go on from the first frames of the cache's clips of `split`, and writes them as the token file
    `out`. `clips` of them are begun with, spread over the split, one for each sample and round again; None: as many as
    there are samples. `flags`: see `drawing_of_flags`.

    Raises CacheError where the prior was trained on codes of another tokenizer, ConfigError for counts out of range.
    """
    drawing = drawing_of_flags(**flags)
    model = Prior.from_pretrained(prior, revision=revision).eval().to(choose_device(device))
    given = TokenCache.open(cache)
    require_codes_of(model, given)
    starts = spread(given.rows(split), clips or drawing.num)
    chosen = starts[np.arange(drawing.num) % len(starts)]
    primes = given_codes(model, given.read(chosen), drawing.prime)
    fresh_folder(out)
    started = time.perf_counter()
    samples = draw(model, primes, drawing)
    seconds = time.perf_counter() - started
    videos = given.source_ids(chosen)
    sources = [
        {"id": f"sample-{i:06d}", "seed": drawing.seed, "sample": i, "row": int(row), "video": video}
        for i, (row, video) in enumerate(zip(chosen, videos, strict=True))
    ]
    provenance = {"prior": prior, "cache_id": given.cache_id, "given_frames": drawing.prime}
    codes = {name: stream.cpu().numpy() for name, stream in samples.tokens.items()}
    cache_id = write_token_file(out, model.spec, codes, given.code_fingerprint, sources, provenance)
    return {"out": str(out), "cache_id": cache_id, **drawing_summary(samples, seconds)}


def drawing_of_flags(num: int, prime: int, frames: int | None, seed: int, batch: int = 16, **sampling: Any) -> Drawing:
    """The flags of `sample` and `generate`; those left out (None) keep SamplingConfig's defaults."""
    chosen = {name: value for name, value in sampling.items() if value is not None}
    return Drawing(num, prime, frames, seed, batch, SamplingConfig(**chosen))


def drawing_summary(samples: Samples, seconds: float) -> dict[str, Any]:
    return {
        "samples": len(next(iter(samples.tokens.values()))),
        "codes_drawn": samples.codes_drawn,
        "codes_per_second": round(samples.codes_drawn / seconds, 1),
        "codes_per_forward": round(samples.codes_per_forward, 2),
        "seconds": round(seconds, 1),
    }


def require_codes_of(prior: Prior, cache: TokenCache) -> None:
    """Raises CacheError unless the cache holds codes of the tokenizer whose codes the prior was trained on."""
    if prior.code_fingerprint != cache.code_fingerprint:
        raise CacheError(
            f"{cache.path} holds codes of the tokenizer {cache.code_fingerprint}; the prior was trained on those of "
            f"{prior.code_fingerprint}: tokenize with that tokenizer, or train a prior on this cache"
        )


def given_codes(prior: Prior, tokens: Mapping[str, np.ndarray], frames: int) -> dict[str, Tensor]:
    """The code steps of the first `frames` frames, int64 by predicted stream. ConfigError for too many frames."""
    if not 0 <= frames <= prior.spec.frames:
        raise ConfigError(f"--prime {frames} must be between 0 and the clip's {prior.spec.frames} frames")
    steps = {name: prior.spec.steps_of_frames(frames, prior.spec.stream(name)) for name in prior.predicts}
    return {name: torch.from_numpy(tokens[name][:, :count].astype(np.int64)) for name, count in steps.items()}


def draw(prior: Prior, primes: Mapping[str, Tensor], drawing: Drawing) -> Samples:
    """Samples 0 .. num - 1, each continuing its row of `primes`, in batches."""
    parts = list(_batches(prior, primes, drawing))
    return Samples(
        {name: torch.cat([part.tokens[name] for part in parts]) for name in parts[0].tokens},
        {name: torch.cat([part.nats[name] for part in parts]) for name in parts[0].nats},
        sum(part.forwards for part in parts),
        sum(part.codes_drawn for part in parts),
    )


def _batches(prior: Prior, primes: Mapping[str, Tensor], drawing: Drawing) -> Iterator[Samples]:
    frames = drawing.frames or prior.spec.frames
    with Progress(drawing.num, "sample", "video") as bar:
        for first in range(0, drawing.num, drawing.batch):
            ids = torch.arange(first, min(first + drawing.batch, drawing.num))
            begun = {name: codes[ids] for name, codes in primes.items()}
            yield sample_video(prior, begun, frames, drawing.sampling, seed=drawing.seed, samples=ids)
            bar.advance(len(ids))
