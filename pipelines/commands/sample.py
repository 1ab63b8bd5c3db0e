"""`tokenreel sample`: prior -> token file. Given frames and tracks come as codes out of a cache; no pixel is seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import sample_sources, write_token_file
from tokenreel.data.order import evenly_spaced
from tokenreel.data.spec import END, END_STEP
from tokenreel.errors import CacheError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.generation.cascade import (
    check_drawing,
    chosen_tracks,
    codes_given_of_clips,
    draw,
    drawing_of_flags,
    drawing_summary,
    load_priors,
    require_tracks_of,
    spec_of_chain,
)
from tokenreel.priors.base import Prior


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
    starts = evenly_spaced(given.rows(split), clips or drawing.num)
    chosen = starts[np.arange(drawing.num) % len(starts)]
    primes = codes_given_of_clips(models, given.read(chosen), drawing.prime, tracks, drawing.frames)
    fresh_folder(out)
    started = time.perf_counter()
    samples = draw(models, primes, drawing)
    seconds = time.perf_counter() - started
    sources = sample_sources(given, chosen, drawing.seed)
    provenance: dict[str, Any] = {"prior": list(prior), "cache_id": given.cache_id, "given_frames": drawing.prime}
    if tracks:
        provenance |= {"given_controls": tracks, "guidance": drawing.sampling.guidance}
    derived = (END, END_STEP)  # of the rows that `sources` name
    codes = {name: stream.cpu().numpy() for name, stream in samples.tokens.items() if name not in derived}
    cache_id = write_token_file(out, spec_of_chain(models), codes, given.code_fingerprint, sources, provenance)
    return {"out": str(out), "cache_id": cache_id, **drawing_summary(samples, seconds)}


def require_codes_of(prior: Prior, cache: TokenCache) -> None:
    """Raises CacheError unless the cache holds codes of the tokenizer whose codes the prior was trained on."""
    if prior.code_fingerprint != cache.code_fingerprint:
        raise CacheError(
            f"{cache.path} holds codes of the tokenizer {cache.code_fingerprint}; the prior was trained on those of "
            f"{prior.code_fingerprint}: tokenize with that tokenizer, or train a prior on this cache"
        )
