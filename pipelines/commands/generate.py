"""`tokenreel generate`: pixels in, video out. Tokenizes a video's first frames, samples what follows, decodes."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.spec import END
from tokenreel.errors import CacheError, ConfigError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.decoding.tokens_to_video import decode_pieces, frame_rate_of, require_context, write_clips
from tokenreel.pipelines.generation.cascade import (
    check_drawing,
    codes_given_of_clips,
    draw,
    drawing_of_flags,
    drawing_summary,
    load_priors,
    tracks_drawn_apart,
)
from tokenreel.pipelines.generation.control_inputs import ControlFlags, codes_of_flags, require_controls
from tokenreel.pipelines.generation.given_frames import Seen, codes_of_frames, end_frame, first_frames, given_rate
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.base import VideoTokenizer


def run(
    prior: Sequence[str],
    tokenizer: str,
    video: Path | None,
    out: Path,
    controls: str | None = None,
    class_name: str | None = None,
    states: Path | None = None,
    sound: Path | None = None,
    track: Sequence[tuple[str, str]] = (),
    end: Path | None = None,
    context: int | None = None,
    format: str = "mp4",
    device: str | None = None,
    **flags: Any,
) -> dict[str, Any]:
    """Writes `num` continuations of the first `prime` frames of `video` into `out`; with `prime` 0 nothing need be
    given. What steers them: see `ControlFlags`, and `end`, the picture that they end in. Where the tokenizer decodes
    with context (`context` frames; None: as it has it) the given frames and the end are true ones and help; without
    they are decoded like the others. `flags`: see `drawing_of_flags`.

    Raises CacheError where the prior was trained on codes of another tokenizer, ConfigError where it knows nothing of
    what is given, DataError where the video, or a control, is too short or does not fit.
    """
    drawing = drawing_of_flags(**flags)
    if video is not None and not drawing.prime:
        raise ConfigError(f"--video {video} does nothing with --prime 0: give some of its frames, or leave it out")
    models, pixels = _load(prior, tokenizer, choose_device(device))
    frames = drawing.frames or models[0].spec.frames
    require_controls(models, [END] if end else [])
    typed = ControlFlags(controls, class_name, states, sound, track)
    rate = given_rate(pixels, video, drawing.prime) if typed else None
    steering = codes_of_flags(models, pixels.spec, typed, frames, drawing.prime, rate)
    _require_beginnings(models, steering, drawing.prime)
    begun = tracks_drawn_apart(models)
    tracks = [*(name for name in steering if name not in begun), *([END] if end else [])]
    check_drawing(models, drawing, tracks)
    seen = Seen(first_frames(pixels, video, drawing.prime), end_frame(pixels, end, frames))
    known, ahead = seen.in_decoding(pixels, context)
    require_context(pixels, frames, context, 0 if known is None else len(known), ahead is not None)
    fresh_folder(out)
    started = time.perf_counter()
    codes = {name: array.cpu().numpy() for name, array in (codes_of_frames(pixels, seen) | steering).items()}
    given = codes_given_of_clips(models, codes, drawing.prime, tracks, frames)
    samples = draw(models, {name: codes.expand(drawing.num, -1, -1, -1, -1) for name, codes in given.items()}, drawing)
    paths = [out / f"{number:06d}.{format}" for number in range(drawing.num)]
    write_samples(pixels, samples.tokens, seen, paths, drawing.batch, context)
    return {"out": str(out), "given_tracks": tracks, **drawing_summary(samples, time.perf_counter() - started)}


def _require_beginnings(priors: Sequence[Prior], steering: Collection[str], prime: int) -> None:
    """Raises ConfigError where a track that is drawn by itself is to go on from frames, and nobody says from where."""
    lacking = sorted(tracks_drawn_apart(priors) - set(steering))
    if prime and lacking:
        raise ConfigError(
            f"--prime {prime}: the frames do not say where the track {lacking[0]!r} begins, which a prior of its own "
            f"draws: give it for these frames (--states, --track {lacking[0]}=...), or --prime 0"
        )


def _load(prior: Sequence[str], tokenizer: str, device: torch.device) -> tuple[list[Prior], VideoTokenizer]:
    """Raises CacheError where a prior is for codes of another tokenizer."""
    models = load_priors(prior, device)
    pixels = VideoTokenizer.from_pretrained(tokenizer).freeze().to(device)
    for model in models:
        if model.code_fingerprint != pixels.code_fingerprint:
            raise CacheError(
                f"--prior {', '.join(prior)} was trained on codes of {model.code_fingerprint}, and --tokenizer "
                f"{tokenizer} is {pixels.code_fingerprint}: use the tokenizer that the prior was trained with"
            )
    return models, pixels


def write_samples(
    tokenizer: VideoTokenizer,
    tokens: Mapping[str, Tensor],
    seen: Seen,
    paths: Sequence[Path],
    batch: int,
    context: int | None,
) -> None:
    """Decodes tokens [N, t, h, w, q] by stream into a file each, `batch` at once."""
    for first in range(0, len(paths), batch):
        some = {name: codes[first : first + batch].cpu().numpy() for name, codes in tokens.items()}
        files = paths[first : first + batch]
        each = [
            None if true is None else np.repeat(true[None], len(files), 0)
            for true in seen.in_decoding(tokenizer, context)
        ]
        write_clips(files, decode_pieces(tokenizer, some, context, *each), frame_rate_of(tokenizer))
