"""`tokenreel generate`: pixels in, video out. Tokenizes a video's first frames, samples what follows, decodes."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_model
from tokenreel.data.spec import END
from tokenreel.data.video.reader import DecodeFailure
from tokenreel.errors import CacheError, ConfigError
from tokenreel.pipelines.commands.decode import decode_pieces, frame_rate_of, require_context, write_clips
from tokenreel.pipelines.commands.sample import drawing_of_flags, drawing_summary
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.output_folder import fresh_folder
from tokenreel.pipelines.decoding.true_frames import Wanted, frames_of_file
from tokenreel.pipelines.generation.cascade import check_drawing, codes_given_of_clips, draw, load_priors
from tokenreel.pipelines.generation.control_inputs import ControlFlags, codes_of_flags, require_controls
from tokenreel.pipelines.generation.control_priors import tracks_drawn_apart
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


@dataclass(frozen=True)
class Seen:
    """True frames of what is to be made, uint8, framed as the tokenizer takes them."""

    first: np.ndarray  # [n, H, W, 3]; n may be 0
    end: np.ndarray | None  # [1, H, W, 3]

    def in_decoding(
        self, tokenizer: VideoTokenizer, context: int | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Those that are shown as they are [n, H, W, 3], and the one that helps from ahead [H, W, 3]: of a tokenizer
        that decodes without context none, for its codes have all that it can tell.
        """
        known = self.first if tokenizer.context and len(self.first) else None
        return known, self.end[0] if self.end is not None and tokenizer.context and context != 0 else None


def first_frames(tokenizer: VideoTokenizer, video: Path | None, count: int) -> np.ndarray:
    """uint8 [count, H, W, 3]: the first frames of the file, framed and timed as the tokenizer takes them."""
    framing = tokenizer.spec.framing
    if not count:
        return np.empty((0, framing.height, framing.width, 3), np.uint8)
    if video is None:
        raise ConfigError(f"--prime {count} needs --video, whose first frames are given: name one, or say --prime 0")
    return frames_of_file(Wanted("--video", str(video), np.arange(count), framing))


def given_rate(tokenizer: VideoTokenizer, video: Path | None, count: int) -> float | None:
    """Frames a second of the first `count` frames, as the tokenizer sees them; None where that cannot be said."""
    resampled = tokenizer.spec.framing.frame_rate
    if resampled or video is None or count < 2:
        return resampled
    with DecodePool(str(video), workers=1) as pool:
        probe = next(iter(pool.probe([0])))
    return None if isinstance(probe, DecodeFailure) else probe.frame_rate  # reading its frames says what is wrong


def end_frame(tokenizer: VideoTokenizer, end: Path | None, frames: int) -> np.ndarray | None:
    """uint8 [1, H, W, 3]: the picture `end`, or the frame of a video that is the last one of its first `frames`."""
    if end is None:
        return None
    return frames_of_file(Wanted("--end", str(end), np.array([frames - 1]), tokenizer.spec.framing))


@torch.inference_mode()
def codes_of_frames(tokenizer: VideoTokenizer, seen: Seen) -> dict[str, Tensor]:
    """Of the first frames as a clip, by level, and of the end frame as `end`."""
    device = next(tokenizer.parameters()).device
    tokens = tokenizer.encode(to_model(seen.first[None], device)) if len(seen.first) else empty_tokens(tokenizer)
    if seen.end is None:
        return tokens
    (codes,) = tokenizer.encode(to_model(seen.end[None], device)).values()
    return {**tokens, END: codes}


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


def empty_tokens(tokenizer: VideoTokenizer) -> dict[str, Tensor]:
    """No code step at all of each level: everything is to be drawn."""
    device = next(tokenizer.parameters()).device
    return {
        level.name: torch.empty(1, 0, *level.shape[1:], dtype=torch.long, device=device)
        for level in tokenizer.spec.levels
    }
