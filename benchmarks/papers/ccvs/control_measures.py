"""Measures of the effect of controls on a prior, on Tabletop: bits by frame, contacts, the last frame, samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.controls.end_frame import end_tokens
from tokenreel.data.spec import END, END_STEP
from tokenreel.data.tabletop.clip import TabletopClip, TabletopConfig, tabletop_clip
from tokenreel.metrics.likelihood import permute_streams
from tokenreel.pipelines.decoding.tokens_to_video import decode_tokens
from tokenreel.pipelines.generation.cascade import generate_tokens
from tokenreel.pipelines.generation.config import GenerationConfig
from tokenreel.pipelines.generation.given_tokens import given_tokens
from tokenreel.priors.base import Prior
from tokenreel.priors.sampling.logits import SamplingConfig
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import STREAM

GIVEN_FRAMES = 1
BATCH = 12  # clips scored or decoded at a time
SAMPLING_BATCH = 40  # clips
FRAMES, VIDEO_FRAMES, PIXELS = 16, 32, 64  # frames of a clip and of its video, pixels along an edge


@dataclass(frozen=True)
class GroundTruth:
    """Frames, tip positions and contacts of N clips."""

    frames: np.ndarray  # uint8 [N, T, H, W, 3]
    tip: np.ndarray  # float32 [N, T, 2]: x and y of the arm's tip, as fractions of the width and height
    contact: np.ndarray  # bool [N, T]: whether the arm begins to touch an object in this frame


def ground_truth(cache: TokenCache, rows: np.ndarray) -> GroundTruth:
    """Ground truth of rows of a cache of Tabletop, where the index of a video is its name."""
    clips = list(_clips(cache, rows))
    touched = [
        np.isin(np.arange(VIDEO_FRAMES), [contact.frame for contact in clip.contacts])[frames] for clip, frames in clips
    ]
    pixels = np.stack([clip.frames[frames] for clip, frames in clips])
    return GroundTruth(pixels, tips_of(cache, rows), np.stack(touched))


def tips_of(cache: TokenCache, rows: np.ndarray) -> np.ndarray:
    """Tip positions as in `GroundTruth`, without drawing any frame."""
    return np.stack([clip.state[frames] for clip, frames in _clips(cache, rows)])


def _clips(cache: TokenCache, rows: np.ndarray) -> Iterator[tuple[TabletopClip, slice]]:
    """Yields the video of each row, and the slice of its frames that is the row's clip."""
    config = TabletopConfig(height=PIXELS, width=PIXELS, frames=VIDEO_FRAMES)
    for name, first in zip(cache.source_ids(rows), cache.column("first_frame")[rows].tolist(), strict=True):
        yield tabletop_clip(config, int(name)), slice(first, first + FRAMES)


def neighbours_of_other_videos(cache: TokenCache, rows: np.ndarray) -> np.ndarray:
    """Reorders `rows` such that neighbours are of different videos, as controls are permuted between neighbours."""
    return rows[np.argsort(cache.column("first_frame")[rows], kind="stable")]


def bits_by_frame(prior: Prior, cache: TokenCache, rows: np.ndarray, control: str | None) -> dict[str, np.ndarray]:
    """float64 [N, T], bits/code of the sampled tokens of each frame: with the control `given`, `dropped` (unconditional
    tokens), and `permuted` (of the next clip). Without a control: `given` only.
    """
    controls = [END, END_STEP] if control == END else [control] if control else []
    clips = list(_batches(prior, cache, rows))
    bits = {"given": _bits(prior, clips, controls)}
    if controls:
        bits["dropped"] = _bits(prior, [_unconditional(prior, tokens, controls) for tokens in clips], controls)
        bits["permuted"] = _bits(prior, permute_streams(clips, controls), controls)
    return bits


def _batches(prior: Prior, cache: TokenCache, rows: np.ndarray) -> Iterator[dict[str, Tensor]]:
    stored = [stream.name for stream in prior.spec.streams if stream.name not in (END, END_STEP)]
    for batch in np.array_split(rows, -(-len(rows) // BATCH)):
        codes = cache.read(batch, streams=stored)
        if END in prior.reads:
            codes |= end_tokens(prior.spec, codes, np.full(len(batch), FRAMES - 1))
        yield {name: torch.from_numpy(array.astype(np.int64)) for name, array in codes.items()}


def _unconditional(prior: Prior, tokens: Mapping[str, Tensor], controls: list[str]) -> dict[str, Tensor]:
    return {
        **tokens,
        **{name: torch.full_like(tokens[name], prior.spec.stream(name).codebook_size) for name in controls},
    }


@torch.inference_mode()
def _bits(prior: Prior, batches: Iterable[dict[str, Tensor]], controls: list[str]) -> np.ndarray:
    sampled = prior.given_streams(name for name in prior.predicts if name not in controls)
    given = prior.given_frames(GIVEN_FRAMES) | ~sampled
    step = prior.order()[sampled, 1]
    totals = []
    for tokens in batches:
        nats = -prior.log_prob(tokens, given.expand(len(tokens[STREAM]), -1))[:, sampled].double()
        totals.append(torch.zeros(len(nats), FRAMES, dtype=torch.double).index_add(1, step, nats))
    codes = len(step) / FRAMES / np.log2(np.e)
    return torch.cat(totals).numpy() / codes


def around_contacts(contact: np.ndarray) -> np.ndarray:
    """bool [N, T]: the frames of contacts and those after them, except given ones."""
    near = contact.copy()
    near[:, 1:] |= contact[:, :-1]
    near[:, :GIVEN_FRAMES] = False
    return near


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling from a prior that is conditioned on the controls of the clips."""

    guidance: float = 1.0
    top_p: float = 1.0
    seed: int = 0


def samples(
    priors: Sequence[Prior], tokens: Mapping[str, np.ndarray], control: str | None, sampling: Sampling, path: Path
) -> np.ndarray:
    """Tokens [N, t, h, w, q] that continue the first frames of `tokens`, conditioned on the control; read from the file
    `path` if it exists, written to it otherwise.
    """
    if not path.exists():
        controls = [control] if control else []
        settings = SamplingConfig(guidance=sampling.guidance, top_p=sampling.top_p)
        config = GenerationConfig(
            len(tokens[STREAM]), GIVEN_FRAMES, seed=sampling.seed, batch=SAMPLING_BATCH, sampling=settings
        )
        given = given_tokens(priors, tokens, GIVEN_FRAMES, controls)
        sampled = generate_tokens(priors, given, config).tokens[STREAM]
        partial = path.with_suffix(".partial.npy")
        np.save(partial, sampled.numpy().astype(np.uint16))
        partial.rename(path)
    return np.load(path)


def decoded(
    tokenizer: VideoTokenizer, codes: np.ndarray, true: np.ndarray, context: int, end: bool = False
) -> np.ndarray:
    """uint8 [N, T, H, W, 3]: the true first frames, and the others decoded with `context` previous frames, and with the
    true last frame if `end`.
    """
    parts = []
    for first in range(0, len(codes), BATCH):
        clips = slice(first, first + BATCH)
        last = true[clips, -1] if end else None
        parts.append(decode_tokens(tokenizer, {STREAM: codes[clips]}, context=context, given=true[clips, :1], end=last))
    return np.concatenate(parts)


def psnr_of_frame(true: np.ndarray, video: np.ndarray, frame: int) -> np.ndarray:
    """PSNR [N] in dB of frame `frame` of each video, both uint8 [N, T, H, W, 3]; infinite where frames are equal."""
    error = np.square(true[:, frame].astype(np.float64) - video[:, frame]).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(255**2 / error))
