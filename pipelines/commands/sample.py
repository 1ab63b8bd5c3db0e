"""`tokenreel sample`: priors -> a token file of samples; or a generator -> their videos.

For priors, given frames and controls come as tokens from a cache; no pixel is read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import sample_sources, write_token_file
from tokenreel.data.order import evenly_spaced
from tokenreel.data.spec import END, END_STEP
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.fingerprints import require_one_tokenizer
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.generation.cascade import cascade_spec, generate_tokens, generation_summary, load_priors
from tokenreel.pipelines.generation.checks import check_generation
from tokenreel.pipelines.generation.config import generation_config
from tokenreel.pipelines.generation.given_tokens import choose_controls, given_tokens, require_same_controls
from tokenreel.pipelines.generators.sample import sample_videos
from tokenreel.pipelines.requests.generation import SampleRequest
from tokenreel.priors.base import Prior
from tokenreel.priors.sampling.video import Samples

DERIVED = (END, END_STEP)  # streams that are made from the clips that samples continue, and not stored


def run(request: SampleRequest) -> dict[str, Any]:
    """Writes samples to `out`, of a generator as `sample_videos` says, else of priors."""
    return sample_priors(request) if request.generator is None else sample_videos(request)


def sample_priors(request: SampleRequest) -> dict[str, Any]:
    """Samples that continue clips of the cache, spread over the split, are written as the token file `out`.

    Raises CacheError where a prior was trained on tokens of another tokenizer, ConfigError for counts out of range, for
    priors that do not make up all levels, and for controls that the priors or the cache do not have.
    """
    config = generation_config(request)
    priors = load_priors(request.prior, choose_device(request.device), request.revision)
    controls = choose_controls(priors, request.given_controls)
    check_generation(priors, config, controls)
    cache = _open_cache(request, priors, controls)
    clips = evenly_spaced(cache.rows(request.split), request.num_clips or config.num)
    rows = clips[np.arange(config.num) % len(clips)]
    given = given_tokens(priors, cache.read(rows), config.given_frames, controls, config.frames)
    fresh_folder(request.out)
    started = time.perf_counter()
    samples = generate_tokens(priors, given, config)
    summary = generation_summary(samples, time.perf_counter() - started)
    return {"out": str(request.out), "cache_id": _write(request, priors, cache, rows, controls, samples), **summary}


def _open_cache(request: SampleRequest, priors: Sequence[Prior], controls: Sequence[str]) -> TokenCache:
    """Raises CacheError and ConfigError unless the cache holds what the priors were trained on."""
    assert request.cache is not None
    cache = TokenCache.open(request.cache)
    fingerprints = {f"the prior of {', '.join(prior.predicts)}": prior.code_fingerprint for prior in priors}
    require_one_tokenizer({f"--cache {request.cache}": cache.code_fingerprint, **fingerprints})
    for prior in priors:
        require_same_controls(prior, cache.spec, controls)
    return cache


def _write(
    request: SampleRequest,
    priors: Sequence[Prior],
    cache: TokenCache,
    rows: np.ndarray,
    controls: Sequence[str],
    samples: Samples,
) -> str:
    """Writes the token file of samples that continue `rows` of the cache. Returns its identity."""
    provenance: dict[str, Any] = {
        "prior": list(request.prior),
        "cache_id": cache.cache_id,
        "given_frames": request.given_frames,
    }
    if controls:
        provenance |= {"given_controls": list(controls), "guidance": request.guidance}
    tokens = {name: stream.cpu().numpy() for name, stream in samples.tokens.items() if name not in DERIVED}
    sources = sample_sources(cache, rows, request.seed)
    return write_token_file(request.out, cascade_spec(priors), tokens, cache.code_fingerprint, sources, provenance)
