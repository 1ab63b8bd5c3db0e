"""`tokenreel generate`: pixels in, video out. Tokenizes a video's first frames, samples what follows, decodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.data.decode_pool import DecodePool, ReadRequest
from tokenreel.data.pixels import to_model
from tokenreel.data.video import shown_frames
from tokenreel.data.video_writer import write_video
from tokenreel.errors import CacheError, DataError
from tokenreel.pipelines.decode import decode_tokens, frame_rate_of
from tokenreel.pipelines.device import choose_device
from tokenreel.pipelines.output_folder import fresh_folder
from tokenreel.pipelines.prior_chain import check_drawing, draw, given_codes, load_priors
from tokenreel.pipelines.sample import drawing_of_flags, drawing_summary
from tokenreel.tokenizers.base import VideoTokenizer


def run(
    prior: Sequence[str],
    tokenizer: str,
    video: Path,
    out: Path,
    format: str = "mp4",
    device: str | None = None,
    **flags: Any,
) -> dict[str, Any]:
    """Writes `num` continuations of the first `prime` frames of `video` into `out`. `flags`: see `drawing_of_flags`.

    Raises CacheError where the prior was trained on codes of another tokenizer, DataError where the video is too short.
    """
    drawing = drawing_of_flags(**flags)
    place = choose_device(device)
    models = load_priors(prior, place)
    pixels = VideoTokenizer.from_pretrained(tokenizer).freeze().to(place)
    for model in models:
        if model.code_fingerprint != pixels.code_fingerprint:
            raise CacheError(
                f"--prior {', '.join(prior)} was trained on codes of {model.code_fingerprint}, and --tokenizer "
                f"{tokenizer} is {pixels.code_fingerprint}: use the tokenizer that the prior was trained with"
            )
    check_drawing(models, drawing)
    given = first_frames(pixels, video, drawing.prime)
    fresh_folder(out)
    started = time.perf_counter()
    with torch.inference_mode():
        tokens = pixels.encode(to_model(given[None], place)) if len(given) else empty_tokens(pixels)
        primes = given_codes(models, {name: codes.cpu().numpy() for name, codes in tokens.items()}, drawing.prime)
        repeated = {name: codes.expand(drawing.num, -1, -1, -1, -1) for name, codes in primes.items()}
        samples = draw(models, repeated, drawing)
    clips = decode_tokens(pixels, {name: codes.cpu().numpy() for name, codes in samples.tokens.items()})
    for number, clip in enumerate(clips):
        write_video(out / f"{number:06d}.{format}", clip, frame_rate_of(pixels))
    return {"out": str(out), **drawing_summary(samples, time.perf_counter() - started)}


def first_frames(tokenizer: VideoTokenizer, video: Path, count: int) -> np.ndarray:
    """uint8 [count, H, W, 3]: the first frames of the file, framed and timed as the tokenizer takes them."""
    framing = tokenizer.spec.framing
    if video.is_dir():
        raise DataError(f"--video {video} is a folder: give one video file")
    with DecodePool(str(video), workers=1) as pool:
        probe = next(iter(pool.probe([0])))
        if isinstance(probe, Exception):
            raise DataError(f"--video {video}: {probe}") from probe
        shown = shown_frames(probe.frame_times, framing.frame_rate)
        if len(shown) < count:
            raise DataError(f"--prime {count}: {video} has {len(shown)} frames; give fewer, or a longer video")
        if not count:
            return np.empty((0, framing.height, framing.width, 3), np.uint8)
        result = next(iter(pool.read([ReadRequest(0, shown[:count], framing)], ahead=1)))
    if result.frames is None:
        raise DataError(f"--video {video}: {result.failure}") from result.failure
    return result.frames


def empty_tokens(tokenizer: VideoTokenizer) -> dict[str, torch.Tensor]:
    """No code step at all of each level: everything is to be drawn."""
    device = next(tokenizer.parameters()).device
    return {
        level.name: torch.empty(1, 0, *level.shape[1:], dtype=torch.long, device=device)
        for level in tokenizer.spec.levels
    }
