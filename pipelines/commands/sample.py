"""`tokenreel sample`: prior -> token file. Given frames and tracks come as codes out of a cache; no pixel is seen."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import END, END_STEP
from tokenreel.errors import CacheError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.output_folder import fresh_folder
from tokenreel.pipelines.common.spread import spread
from tokenreel.pipelines.decoding.true_frames import sample_sources
from tokenreel.pipelines.generation.cascade import (
    Drawing,
    check_drawing,
    chosen_tracks,
    codes_given_of_clips,
    draw,
    load_priors,
    require_tracks_of,
    spec_of_chain,
)
from tokenreel.priors.base import Prior
from tokenreel.priors.sampling.logits import SamplingConfig, StreamSampling
from tokenreel.priors.sampling.video import Samples

_OF_A_STREAM = {field.name for field in dataclasses.fields(StreamSampling)}


def run(
    prior: Sequence[str],
    cache: Path,
    out: Path,
    clips: int | None = None,
    split: str | None = "validation",
    given_tracks: Sequence[str] | None = None,
    device: str | None = None,
    revision: str | None = None,
    **flags: Any,
) -> dict[str, Any]:
    """Draws samples that go on from the first frames of the cache's clips of `split`, and writes them as the token file
    `out`. `clips` of them are begun with, spread over the split, one for each sample and round again; None: as many as
    there are samples. The tracks `given_tracks` are the clips' own, all that the priors know where left out (`end`:
    the clip's last frame, for the last one of the sample); others are drawn, or absent if they are not predicted.
    Several of `prior` draw a level each, coarse first, and one of tracks alone what these are told. `flags`: see
    `drawing_of_flags`.

    Raises CacheError where a prior was trained on codes of another tokenizer, ConfigError for counts out of range, for
    priors that do not make up all levels, and for tracks that the priors or the cache do not have.
    """
    drawing = drawing_of_flags(**flags)
    models = load_priors(prior, choose_device(device), revision)
    tracks = chosen_tracks(models, given_tracks)
    check_drawing(models, drawing, tracks)
    given = TokenCache.open(cache)
    for model in models:
        require_codes_of(model, given)
        require_tracks_of(model, given.spec, tracks)
    starts = spread(given.rows(split), clips or drawing.num)
    chosen = starts[np.arange(drawing.num) % len(starts)]
    primes = codes_given_of_clips(models, given.read(chosen), drawing.prime, tracks, drawing.frames)
    fresh_folder(out)
    started = time.perf_counter()
    samples = draw(models, primes, drawing)
    seconds = time.perf_counter() - started
    sources = sample_sources(given, chosen, drawing.seed)
    provenance: dict[str, Any] = {"prior": list(prior), "cache_id": given.cache_id, "given_frames": drawing.prime}
    if tracks:
        provenance |= {"given_tracks": tracks, "guidance": drawing.sampling.guidance}
    derived = (END, END_STEP)  # of the rows that `sources` name
    codes = {name: stream.cpu().numpy() for name, stream in samples.tokens.items() if name not in derived}
    cache_id = write_token_file(out, spec_of_chain(models), codes, given.code_fingerprint, sources, provenance)
    return {"out": str(out), "cache_id": cache_id, **drawing_summary(samples, seconds)}


def drawing_of_flags(
    num: int,
    prime: int,
    frames: int | None,
    seed: int,
    batch: int = 16,
    top_k_of: Sequence[tuple[str, int]] = (),
    **sampling: Any,
) -> Drawing:
    """The flags of `sample` and `generate`; those left out (None) keep SamplingConfig's defaults. `top_k_of`: top-k of
    streams by name, which else are drawn like the others.
    """
    chosen = {name: value for name, value in sampling.items() if value is not None}
    every = StreamSampling(**{name: value for name, value in chosen.items() if name in _OF_A_STREAM})
    streams = {name: dataclasses.replace(every, top_k=top_k) for name, top_k in top_k_of}
    return Drawing(num, prime, frames, seed, batch, SamplingConfig(**chosen, streams=streams))


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
