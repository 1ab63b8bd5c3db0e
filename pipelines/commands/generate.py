"""`tokenreel generate`: pixels in, video out, by priors or by a generator.

With priors a video's first frames are encoded, what follows is sampled, and decoded.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tokenreel.data.spec import END
from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.fingerprints import require_one_tokenizer
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.decoding.tokens_to_video import decode_pieces, frame_rate_of, require_context, write_clips
from tokenreel.pipelines.generation.cascade import (
    generate_tokens,
    generation_summary,
    load_priors,
    sampled_controls,
)
from tokenreel.pipelines.generation.checks import check_generation, require_given_frames
from tokenreel.pipelines.generation.config import generation_config
from tokenreel.pipelines.generation.control_inputs import encode_control_inputs
from tokenreel.pipelines.generation.given_frames import TrueFrames, encode_true_frames, end_frame, first_frames
from tokenreel.pipelines.generation.given_tokens import given_tokens, require_controls
from tokenreel.pipelines.generators.generate import generate_videos
from tokenreel.pipelines.requests.generation import GenerateRequest
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.base import VideoTokenizer


def run(request: GenerateRequest) -> dict[str, Any]:
    """Writes videos into `out`, by a generator as `generate_videos` says, else by priors."""
    return generate_by_priors(request) if request.generator is None else generate_videos(request)


def generate_by_priors(request: GenerateRequest) -> dict[str, Any]:
    """Writes `num` videos into `out`. Where the tokenizer decodes with context, the given frames and the end frame are
    true frames and serve as context; else the given frames are decoded like the others.

    Raises CacheError where a prior was trained on tokens of another tokenizer, ConfigError where it was not trained
    with a control that is given, DataError where the video, or a control, is too short or does not fit.
    """
    config = generation_config(request)
    priors, tokenizer = _load(request)
    frames = config.frames or priors[0].spec.frames
    require_given_frames(priors[0].spec, request.given_frames)
    require_controls(priors, [END] if request.end else [])
    first = first_frames(tokenizer.spec.framing, request.video, request.given_frames)
    controls = _encode_controls(request, priors, tokenizer, frames, first.frame_rate)
    sampled = sampled_controls(priors)
    names = [*(name for name in controls if name not in sampled), *([END] if request.end else [])]
    check_generation(priors, config, names)
    end_of_file = None if request.end is None else end_frame(tokenizer.spec.framing, request.end, frames).frames
    true_frames = TrueFrames(first.frames, end_of_file)
    given, end = true_frames.for_decoding(tokenizer, request.context)
    require_context(tokenizer, frames, request.context, 0 if given is None else len(given), end is not None)
    fresh_folder(request.out)
    started = time.perf_counter()
    streams = encode_true_frames(tokenizer, true_frames) | controls
    tokens = {name: stream.cpu().numpy() for name, stream in streams.items()}
    start = given_tokens(priors, tokens, config.given_frames, names, frames)
    samples = generate_tokens(
        priors, {name: stream.expand(config.num, -1, -1, -1, -1) for name, stream in start.items()}, config
    )
    _write(request, tokenizer, samples.tokens, true_frames)
    summary = generation_summary(samples, time.perf_counter() - started)
    return {"out": str(request.out), "given_controls": names, **summary}


def _load(request: GenerateRequest) -> tuple[list[Prior], VideoTokenizer]:
    """Raises CacheError where a prior was trained on tokens of another tokenizer."""
    device = choose_device(request.device)
    priors = load_priors(request.prior, device)
    assert request.tokenizer is not None
    tokenizer = VideoTokenizer.from_pretrained(request.tokenizer).freeze().to(device)
    fingerprints = {f"the prior of {', '.join(prior.predicts)}": prior.code_fingerprint for prior in priors}
    require_one_tokenizer({f"--tokenizer {request.tokenizer}": tokenizer.code_fingerprint, **fingerprints})
    return priors, tokenizer


def _encode_controls(
    request: GenerateRequest, priors: Sequence[Prior], tokenizer: VideoTokenizer, frames: int, rate: float | None
) -> dict[str, Tensor]:
    """Tokens [1, t, h, w, q] by control stream, beside given frames of `rate` frames per second. Raises ConfigError and
    DataError for controls that do not fit.
    """
    controls = encode_control_inputs(priors, tokenizer.spec, request, frames, request.given_frames, rate)
    _require_start_of_sampled_controls(priors, controls, request.given_frames)
    return controls


def _require_start_of_sampled_controls(priors: Sequence[Prior], controls: Collection[str], given_frames: int) -> None:
    """Raises ConfigError where a control prior is to continue a control from given frames, and it is not given."""
    missing = sorted(sampled_controls(priors) - set(controls))
    if given_frames and missing:
        raise ConfigError(
            f"--given-frames (={given_frames}): a control prior samples {missing[0]!r} and has to know it for these "
            f"frames: give it (--states, --control {missing[0]}=...), or use --given-frames 0"
        )


def _write(
    request: GenerateRequest, tokenizer: VideoTokenizer, tokens: Mapping[str, Tensor], true_frames: TrueFrames
) -> None:
    """Decodes tokens [N, t, h, w, q] by stream into one file per sample."""
    paths = [request.out / f"{number:06d}.{request.format}" for number in range(request.num)]
    shared = true_frames.for_decoding(tokenizer, request.context)
    for first in progress(range(0, request.num, request.batch), "decode", "batch"):
        batch = paths[first : first + request.batch]
        part = {name: stream[first : first + request.batch].cpu().numpy() for name, stream in tokens.items()}
        given, end = (None if frames is None else np.repeat(frames[None], len(batch), 0) for frames in shared)
        pieces = decode_pieces(tokenizer, part, request.context, given, end)
        write_clips(batch, pieces, frame_rate_of(tokenizer))
