"""Measures of whether controls affect a prior, on Tabletop: bits by frame, contacts, the last frame, saved samples."""

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

PRIME = 1  # given frames
AT_ONCE = 12  # clips scored or decoded at a time
DRAWN_AT_ONCE = 40  # clips
FRAMES, LENGTH, PIXELS = 16, 32, 64  # of a clip, of the video that it is cut from, along an edge


@dataclass(frozen=True)
class Truth:
    """What happens in clips."""

    frames: np.ndarray  # uint8 [N, T, H, W, 3]
    tip: np.ndarray  # float32 [N, T, 2]: x and y of the arm's tip, as shares of the picture
    contact: np.ndarray  # bool [N, T]: an object begins to be touched in this frame


def truth_of(cache: TokenCache, rows: np.ndarray) -> Truth:
    """Of rows of a cache of Tabletop, whose videos are called by their index."""
    clips = list(_clips(cache, rows))
    touched = [np.isin(np.arange(LENGTH), [contact.frame for contact in clip.contacts])[shown] for clip, shown in clips]
    frames = np.stack([clip.frames[shown] for clip, shown in clips])
    return Truth(frames, tips_of(cache, rows), np.stack(touched))


def tips_of(cache: TokenCache, rows: np.ndarray) -> np.ndarray:
    """As in `Truth`; nothing is drawn for it."""
    return np.stack([clip.state[shown] for clip, shown in _clips(cache, rows)])


def _clips(cache: TokenCache, rows: np.ndarray) -> Iterator[tuple[TabletopClip, slice]]:
    """The video of each row, and the frames of it that the row has."""
    config = TabletopConfig(height=PIXELS, width=PIXELS, frames=LENGTH)
    for name, first in zip(cache.source_ids(rows), cache.column("first_frame")[rows].tolist(), strict=True):
        yield tabletop_clip(config, int(name)), slice(first, first + FRAMES)


def strangers(cache: TokenCache, rows: np.ndarray) -> np.ndarray:
    """`rows` so ordered that neighbours are of different videos, for what is permuted over clips."""
    return rows[np.argsort(cache.column("first_frame")[rows], kind="stable")]


def bits_by_frame(prior: Prior, cache: TokenCache, rows: np.ndarray, control: str | None) -> dict[str, np.ndarray]:
    """float64 [N, T], bits/code of what is drawn of each frame: `with` the control, that `dropped` (null codes), and
    that `permuted` (of the next clip); without a control `with` only.
    """
    tracks = [END, END_STEP] if control == END else [control] if control else []
    clips = list(_batches(prior, cache, rows))
    found = {"with": _bits(prior, clips, tracks)}
    if tracks:
        found["dropped"] = _bits(prior, [_without(prior, tokens, tracks) for tokens in clips], tracks)
        found["permuted"] = _bits(prior, permute_streams(clips, tracks), tracks)
    return found


def _batches(prior: Prior, cache: TokenCache, rows: np.ndarray) -> Iterator[dict[str, Tensor]]:
    stored = [stream.name for stream in prior.spec.streams if stream.name not in (END, END_STEP)]
    for some in np.array_split(rows, -(-len(rows) // AT_ONCE)):
        codes = cache.read(some, streams=stored)
        if END in prior.reads:
            codes |= end_tokens(prior.spec, codes, np.full(len(some), FRAMES - 1))
        yield {name: torch.from_numpy(array.astype(np.int64)) for name, array in codes.items()}


def _without(prior: Prior, tokens: Mapping[str, Tensor], tracks: list[str]) -> dict[str, Tensor]:
    null = {name: torch.full_like(tokens[name], prior.spec.stream(name).codebook_size) for name in tracks}
    return {**tokens, **null}


@torch.inference_mode()
def _bits(prior: Prior, batches: Iterable[dict[str, Tensor]], tracks: list[str]) -> np.ndarray:
    drawn = prior.given_streams(name for name in prior.predicts if name not in tracks)
    given = prior.given_frames(PRIME) | ~drawn
    step = prior.order()[drawn, 1]
    found = []
    for tokens in batches:
        nats = -prior.log_prob(tokens, given.expand(len(tokens[STREAM]), -1))[:, drawn].double()
        found.append(torch.zeros(len(nats), FRAMES, dtype=torch.double).index_add(1, step, nats))
    codes = len(step) / FRAMES / np.log2(np.e)
    return torch.cat(found).numpy() / codes


def around_contacts(contact: np.ndarray) -> np.ndarray:
    """bool [N, T]: the frames of contacts and those after them, as far as they are not given."""
    near = contact.copy()
    near[:, 1:] |= contact[:, :-1]
    near[:, :PRIME] = False
    return near


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn from a prior that is steered by what their clips have."""

    guidance: float = 1.0
    top_p: float = 1.0
    seed: int = 0


def samples(
    priors: Sequence[Prior], tokens: Mapping[str, np.ndarray], control: str | None, sampling: Sampling, kept: Path
) -> np.ndarray:
    """Codes [N, t, h, w, q] that go on from the first frames of `tokens`, told the control; those in the file `kept` if
    there is one.
    """
    if not kept.exists():
        tracks = [control] if control else []
        how = SamplingConfig(guidance=sampling.guidance, top_p=sampling.top_p)
        config = GenerationConfig(len(tokens[STREAM]), PRIME, seed=sampling.seed, batch=DRAWN_AT_ONCE, sampling=how)
        drawn = generate_tokens(priors, given_tokens(priors, tokens, PRIME, tracks), config).tokens[STREAM]
        partial = kept.with_suffix(".partial.npy")
        np.save(partial, drawn.numpy().astype(np.uint16))
        partial.rename(kept)
    return np.load(kept)


def decoded(
    tokenizer: VideoTokenizer, codes: np.ndarray, true: np.ndarray, context: int, end: bool = False
) -> np.ndarray:
    """uint8 [N, T, H, W, 3]: the true first frames, and the others from their codes with `context` frames before them,
    and with the true last one where there is an `end`.
    """
    parts = []
    for first in range(0, len(codes), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        last = true[some, -1] if end else None
        parts.append(decode_tokens(tokenizer, {STREAM: codes[some]}, context=context, given=true[some, :1], end=last))
    return np.concatenate(parts)


def psnr_of_frame(true: np.ndarray, video: np.ndarray, frame: int) -> np.ndarray:
    """dB [N] of that frame of each video, uint8 [N, T, H, W, 3] both; infinite where it is the same."""
    error = np.square(true[:, frame].astype(np.float64) - video[:, frame]).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(255**2 / error))
