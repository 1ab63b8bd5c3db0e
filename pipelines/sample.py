"""`tokenreel sample`: prior -> token file. The codes of given frames come out of a cache; no pixel is seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.errors import CacheError
from tokenreel.pipelines.device import choose_device
from tokenreel.pipelines.output_folder import fresh_folder
from tokenreel.pipelines.prior_chain import Drawing, check_drawing, draw, given_codes, load_priors
from tokenreel.pipelines.spread import spread
from tokenreel.priors.base import Prior
from tokenreel.priors.choice import SamplingConfig
from tokenreel.priors.sampling import Samples


def run(
    prior: Sequence[str],
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
    there are samples. Several of `prior` draw a level each, coarse first. `flags`: see `drawing_of_flags`.

    Raises CacheError where a prior was trained on codes of another tokenizer, ConfigError for counts out of range and
    for priors that do not make up all levels.
    """
    drawing = drawing_of_flags(**flags)
    models = load_priors(prior, choose_device(device), revision)
    check_drawing(models, drawing)
    given = TokenCache.open(cache)
    for model in models:
        require_codes_of(model, given)
    starts = spread(given.rows(split), clips or drawing.num)
    chosen = starts[np.arange(drawing.num) % len(starts)]
    primes = given_codes(models, given.read(chosen), drawing.prime)
    fresh_folder(out)
    started = time.perf_counter()
    samples = draw(models, primes, drawing)
    seconds = time.perf_counter() - started
    videos = given.source_ids(chosen)
    sources = [
        {"id": f"sample-{i:06d}", "seed": drawing.seed, "sample": i, "row": int(row), "video": video}
        for i, (row, video) in enumerate(zip(chosen, videos, strict=True))
    ]
    provenance = {"prior": list(prior), "cache_id": given.cache_id, "given_frames": drawing.prime}
    codes = {name: stream.cpu().numpy() for name, stream in samples.tokens.items()}
    cache_id = write_token_file(out, models[0].spec, codes, given.code_fingerprint, sources, provenance)
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
