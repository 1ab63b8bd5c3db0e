"""One or several priors that draw a clip together: each predicts levels of codes, and reads those drawn before it; one
of tracks alone draws what the others are told.

Knows what is given of a clip, no cache and no pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.controls.end_frame import end_tokens
from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.progress import Progress
from tokenreel.priors.base import Prior
from tokenreel.priors.sampling.guidance import require_end_in_windows, require_guidable
from tokenreel.priors.sampling.logits import SamplingConfig, StreamSampling
from tokenreel.priors.sampling.sliding_window import placements
from tokenreel.priors.sampling.video import Samples, sample_video


def tracks_drawn_apart(priors: Sequence[Prior]) -> set[str]:
    return {name for prior in priors if not prior.predicts_frames for name in prior.predicts}


def require_followed(priors: Sequence[Prior]) -> None:
    """Raises ConfigError unless each track that is drawn apart is drawn once, and known as the same one to a prior of
    frames of as many frames a clip.
    """
    drawn = [(name, prior) for prior in priors if not prior.predicts_frames for name in prior.predicts]
    names = [name for name, _ in drawn]
    for name, prior in drawn:
        if names.count(name) > 1:
            raise ConfigError(f"--prior: two priors of tracks alone predict {name!r}: give one")
        followers = [other for other in priors if other.predicts_frames and name in other.control_streams]
        if not followers:
            raise ConfigError(
                f"--prior: the track {name!r}, which one prior draws, steers no other: give a prior that knows it"
            )
        for other in followers:
            if other.spec.stream(name) != prior.spec.stream(name) or other.spec.frames != prior.spec.frames:
                raise ConfigError(
                    f"--prior: the prior that draws the track {name!r} and the one that follows it were trained with "
                    "other controls, or on clips of another length: train both on one cache"
                )


@dataclass(frozen=True)
class Drawing:
    """How many samples to draw, how long, and how."""

    num: int  # samples
    prime: int  # given frames
    frames: int | None = None  # of each sample, given ones included; None: the clip that the prior was trained on
    seed: int = 0
    batch: int = 16  # samples drawn at once; the codes do not depend on it
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < self.prime:
            raise ConfigError(f"--frames {self.frames} must be at least the given frames (--prime {self.prime})")


def load_priors(paths: Sequence[str], device: torch.device, revision: str | None = None) -> list[Prior]:
    """The saved priors in the order in which they draw: one of tracks alone before what the tracks steer, coarse
    levels before fine ones.

    Raises ConfigError where one reads a level that none before it predicts, where a level has no prior or two, and
    where nothing is steered by a track that is drawn by itself.
    """
    every = [Prior.from_pretrained(path, revision=revision).eval().to(device) for path in paths]
    require_followed(every)
    of_tracks = [prior for prior in every if not prior.predicts_frames]
    waiting = [prior for prior in every if prior.predicts_frames]
    levels = {level.name for level in every[0].spec.levels}
    ready, known = list[Prior](), set[str]()
    while waiting:
        able = next((prior for prior in waiting if levels & set(prior.reads) <= known), None)
        if able is None:
            missing = sorted(levels & set(waiting[0].reads) - known)
            raise ConfigError(f"--prior: the prior of {waiting[0].predicts} reads {missing}: give its prior as well")
        if known & levels & set(able.predicts):
            raise ConfigError(
                f"--prior: two priors predict {sorted(known & levels & set(able.predicts))}: give one for each level"
            )
        waiting.remove(able)
        ready.append(able)
        known |= set(able.predicts)
    if levels - known:
        raise ConfigError(f"--prior: no prior predicts {sorted(levels - known)}: give one for each level")
    return [*of_tracks, *ready]


def spec_of_chain(priors: Sequence[Prior]) -> TokenSpec:
    """All streams that some of them know."""
    streams = {stream.name: stream for prior in priors for stream in prior.spec.streams}
    return dataclasses.replace(priors[0].spec, streams=tuple(streams.values()))


def check_drawing(priors: Sequence[Prior], drawing: Drawing, tracks: Sequence[str] = ()) -> None:
    """Raises ConfigError for numbers of given frames, or of frames in all, that these priors cannot draw, and for
    settings of streams that they do not draw or guidance that the given `tracks` do not allow.
    """
    spec = priors[0].spec
    if not 0 <= drawing.prime <= spec.frames:
        raise ConfigError(f"--prime {drawing.prime} must be between 0 and the clip's {spec.frames} frames")
    drawn = [name for prior in priors for name in prior.predicts]
    drawing.sampling.of_streams([stream.name for stream in spec_of_chain(priors).streams])
    for name in drawing.sampling.streams:
        if name not in drawn:
            raise ConfigError(f"--top-k-of {name}: nothing of it is drawn, but of {', '.join(drawn)}: leave it out")
    known = set(tracks)
    for prior in priors:
        require_guidable(prior, _sampling_of(prior, priors, drawing.sampling, tracks).guidance, known)
        _require_windows(prior, drawing, END in tracks and END in prior.reads)
        known |= set(prior.predicts)
    if spec.time == "window":
        priors[0].given_frames(drawing.prime)  # only so many were encoded without those after them
        if drawing.frames not in (None, spec.frames):
            raise ConfigError(
                f"--frames {drawing.frames} must be {spec.frames}, or left out: this tokenizer codes whole clips"
            )


def _sampling_of(
    prior: Prior, priors: Sequence[Prior], sampling: SamplingConfig, given: Iterable[str]
) -> SamplingConfig:
    """Where priors of tracks alone are told something by the `given` streams, guidance is theirs: what they draw is to
    be followed as it is.
    """
    guided = [other for other in priors if not other.predicts_frames and set(other.reads) & set(given)] or priors
    names = {stream.name for stream in prior.spec.streams}
    return dataclasses.replace(
        sampling,
        guidance=sampling.guidance if prior in guided else 1.0,
        streams={name: setting for name, setting in sampling.streams.items() if name in names},
    )


def _require_windows(prior: Prior, drawing: Drawing, with_end: bool) -> None:
    """Raises ConfigError for frames, a slide or an end that the windows of so long a video do not allow."""
    spec = prior.spec
    if spec.time != "framewise":
        return
    frames = drawing.frames or spec.frames
    streams = map(spec.stream, (*prior.reads, *prior.predicts))
    running = [stream for stream in streams if spec.runs_with_video(stream)]
    next(placements(spec, running, frames, drawing.sampling.window_stride))
    if with_end:
        some, last = torch.zeros(1, 1, 1, 1, 1), spec.steps_of_frames(frames, spec.levels[0]) - 1
        require_end_in_windows(prior, {END: some, END_STEP: some.long() + last}, frames)


def known_tracks(priors: Sequence[Prior]) -> list[str]:
    """All tracks that some prior knows, the end frame as `end`."""
    tracks = [stream.name for prior in priors for stream in _tracks(prior) if stream.name != END_STEP]
    return list(dict.fromkeys(tracks))


def chosen_tracks(priors: Sequence[Prior], names: Sequence[str] | None) -> list[str]:
    """The tracks to be given: `names`, or all that the priors know and no prior of tracks alone draws (None), the end
    frame as `end`.

    Raises ConfigError for a name that is none of them.
    """
    apart = tracks_drawn_apart(priors)
    tracks = [name for name in known_tracks(priors) if name not in apart]
    for name in names or ():
        if name in apart:
            raise ConfigError(f"--given-tracks {name}: a prior of tracks alone draws it; leave out one of the two")
        if name not in tracks:
            raise ConfigError(f"--given-tracks {name}: this prior has the tracks {sorted(tracks)}")
    return list(dict.fromkeys(tracks if names is None else names))


def require_tracks_of(prior: Prior, spec: TokenSpec, names: Sequence[str]) -> None:
    """Raises ConfigError unless tokens of `spec` hold the named tracks, and whatever else is taken from them, as the
    prior knows them, made by the same coder. An end frame is part of the level.
    """
    has = {stream.name: stream for stream in spec.streams if stream.role == "control"}
    for track in _tracks(prior):
        if track.name in names and track.name != END and track.name not in has:
            raise ConfigError(f"the prior wants the track {track.name!r}, and the tokens have {list(has)}")
        if track.name in has and (track.name in names or prior.spec.runs_with_video(track)):
            here = has[track.name]
            if dataclasses.replace(here, grid=(track.grid[0], *here.grid[1:]), stride=track.stride) != track:
                raise ConfigError(
                    f"the prior wants the track {_brief(track)}, and that of the tokens is {_brief(here)}"
                )


def _brief(track: StreamSpec) -> str:
    coder = f"made by {track.encoder_fingerprint[:12]}..." if track.encoder_fingerprint else "of no known coder"
    return f"{track.name!r} ({list(track.shape)}, {track.codebook_size} codes, {coder})"


def codes_given_of_clips(
    priors: Sequence[Prior],
    tokens: Mapping[str, np.ndarray],
    prime: int,
    tracks: Sequence[str] = (),
    frames: int | None = None,
) -> dict[str, Tensor]:
    """What the priors are given of `tokens`, int64 by stream: the code steps of the first `prime` frames, or, of a
    `window` tokenizer, the tracks of these frames; and `tracks`, as far as a video of `frames` (None: a clip) has them.
    Of other tracks that run with the video, if `tokens` hold them, the given frames' part: what is drawn goes on from
    there. Where `tokens` hold no end frame it is the clip's last one, or its own at the end of a shorter video; it is
    where the video ends.
    """
    spec = priors[0].spec
    if spec.time == "window":
        whole = {name for prior in priors for name in prior.reads if spec.stream(name).role == "control"}
        return {name: torch.from_numpy(tokens[name].astype(np.int64)) for name in whole}
    frames, given = frames or spec.frames, dict[str, np.ndarray]()
    for prior in priors:
        for stream in map(prior.spec.stream, prior.predicts):
            if stream.role == "level":
                given[stream.name] = tokens[stream.name][:, : prior.spec.steps_of_frames(prime, stream)]
        for track in _tracks(prior):
            runs, chosen = prior.spec.runs_with_video(track), track.name in tracks
            if track.name in tokens and (runs or chosen):
                steps = prior.spec.steps_of_frames(frames if chosen else prime, track) if runs else 1
                given[track.name] = tokens[track.name][:, :steps]
        if END in tracks and END in prior.reads:
            given |= _end_of_video(prior.spec, tokens, frames)
    return {name: torch.from_numpy(codes.astype(np.int64)) for name, codes in given.items()}


def _end_of_video(spec: TokenSpec, tokens: Mapping[str, np.ndarray], frames: int) -> dict[str, np.ndarray]:
    """The end frame of each clip at the last step of a video of `frames`."""
    (level,) = spec.levels
    codes, last = tokens[level.name], spec.steps_of_frames(frames, level) - 1
    if END not in tokens:
        tokens = end_tokens(spec, tokens, np.full(len(codes), min(last, codes.shape[1] - 1)))
    return {END: tokens[END], END_STEP: np.full((len(codes), 1, 1, 1, 1), last)}


def _tracks(prior: Prior) -> list[StreamSpec]:
    """Those that steer it: the given frames alone, which a `window` tokenizer has as tracks, do not."""
    if prior.spec.time == "window":
        return []
    streams = map(prior.spec.stream, (*prior.reads, *prior.predicts))
    return [stream for stream in streams if stream.role == "control"]


def draw(priors: Sequence[Prior], given: Mapping[str, Tensor], drawing: Drawing) -> Samples:
    """Samples 0 .. num - 1, each continuing its row of `given`, in batches: all streams that are given or predicted."""
    parts = list(_batches(priors, given, drawing))
    rows = [len(next(iter(part.tokens.values()))) for part in parts]
    return Samples(
        {name: torch.cat([part.tokens[name] for part in parts]) for name in parts[0].tokens},
        {name: torch.cat([part.nats[name] for part in parts]) for name in parts[0].nats},
        sum(part.forwards * count for part, count in zip(parts, rows, strict=True)) / sum(rows),
        sum(part.tokens_sampled for part in parts),
    )


def _batches(priors: Sequence[Prior], given: Mapping[str, Tensor], drawing: Drawing) -> Iterator[Samples]:
    with Progress(drawing.num, "sample", "video") as bar:
        for first in range(0, drawing.num, drawing.batch):
            ids = torch.arange(first, min(first + drawing.batch, drawing.num))
            yield _draw_levels(priors, {name: codes[ids] for name, codes in given.items()}, drawing, ids)
            bar.advance(len(ids))


def _draw_levels(priors: Sequence[Prior], given: Mapping[str, Tensor], drawing: Drawing, ids: Tensor) -> Samples:
    """The same samples by one prior after the other. Random numbers belong to the streams of a prior: those
    of frames know the same ones, one of tracks alone has a seed of its own.
    """
    tokens, nats, forwards, drawn = dict(given), dict[str, Tensor](), 0.0, 0
    for prior in priors:
        begun = {name: tokens[name] for name in (*prior.reads, *prior.predicts) if name in tokens}
        frames = drawing.frames or prior.spec.frames
        sampling = _sampling_of(prior, priors, drawing.sampling, given)
        seed = drawing.seed if prior.predicts_frames else drawing.seed + 1 + priors.index(prior)
        part = sample_video(prior, begun, frames, sampling, seed=seed, samples=ids)
        tokens |= {name: with_given_steps(prior.spec, name, codes, tokens) for name, codes in part.tokens.items()}
        nats = part.nats | nats  # what was drawn before costs nothing now
        forwards, drawn = forwards + part.forwards, drawn + part.tokens_sampled
    return Samples(tokens, nats, forwards, drawn)


def with_given_steps(spec: TokenSpec, name: str, codes: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
    """Of a `window` tokenizer's level no prior draws the first steps: they are those of the given frames alone."""
    track = spec.given_stream(spec.stream(name))
    if track is None:
        return codes
    given = tokens[track.name].to(codes)
    return torch.cat([given, codes[:, given.shape[1] :]], 1)


_OF_A_STREAM = {field.name for field in dataclasses.fields(StreamSampling)}


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
        "codes_drawn": samples.tokens_sampled,
        "codes_per_second": round(samples.tokens_sampled / seconds, 1),
        "codes_per_forward": round(samples.tokens_per_forward, 2),
        "seconds": round(seconds, 1),
    }
