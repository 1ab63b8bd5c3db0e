"""The one sampler for every prior: codes of a clip, or of a video longer than the prior was trained on.

Random numbers belong to (seed, sample id, code), so a sample depends neither on its batch nor on how it was drawn.
Knows no tokenizer and no files: tokens come in and go out by stream name.

B rows (samples), L positions of the prior's order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.data.spec import END, END_STEP, StreamSpec
from tokenreel.errors import ConfigError, DataError
from tokenreel.priors.base import Prior, Tokens
from tokenreel.priors.sampling.counter_rng import uniforms
from tokenreel.priors.sampling.guidance import require_end_in_windows, require_guidable, without_controls
from tokenreel.priors.sampling.logits import Choice, SamplingConfig, StreamSampling
from tokenreel.priors.sampling.loop import Window, draw_window
from tokenreel.priors.sampling.sliding_window import (
    Placement,
    carry,
    check_beginnings,
    placements,
    window_tokens,
)

__all__ = ["Samples", "SamplingConfig", "StreamSampling", "sample", "sample_video", "sample_windows"]

_IDS_OF_A_STREAM = 2**48  # a year of video with 8,000 codes a frame is below 2^43


@dataclass(frozen=True)
class Samples:
    """Codes of the predicted streams, given ones included, and what it cost to draw them."""

    tokens: dict[str, Tensor]  # stream name -> int64 [B, t, h, w, q]
    nats: dict[str, Tensor]  # stream name -> float32 [B, t, h, w, q], minus log-probability under the prior; 0 if given
    forwards: float  # passes through the prior that a row took part in; their mean where rows differ
    tokens_sampled: int  # over all rows

    def __repr__(self) -> str:
        """Shapes, for the codes themselves would fill pages."""
        shapes = ", ".join(f"{name} {list(codes.shape)}" for name, codes in self.tokens.items())
        return f"Samples({shapes}; forwards={self.forwards:g}, tokens_sampled={self.tokens_sampled:,})"

    @property
    def tokens_per_forward(self) -> float:
        """Codes that a row gains by a pass, on average."""
        rows = len(next(iter(self.tokens.values())))
        return self.tokens_sampled / max(rows * self.forwards, 1)


def sample(
    prior: Prior,
    tokens: Tokens,
    given: Tensor | None = None,
    config: SamplingConfig | None = None,
    *,
    seed: int = 0,
    samples: Tensor | None = None,
) -> Samples:
    """Draws every code of a clip that is not given.

    `tokens` hold the streams that the prior reads, and those predicted ones of which anything is given; a track that is
    read and left out holds its null code, if the prior was trained so. `given` is bool [L] or [B, L] (none where left
    out), true anywhere in the order. `samples` are the ids of the rows, int64 [B] and not negative, 0, 1, 2... where
    left out: the same seed and id draw the same codes in any batch. Raises ConfigError or DataError where streams are
    missing, or codes are of another grid or beyond their codebook, where guidance finds nothing to follow, and where
    null codes are needed that the prior was never trained with.
    """
    rows = _count_rows(tokens, given, samples)
    tokens = _known(prior, tokens, prior.spec.frames)
    mask = torch.zeros(len(prior.order()), dtype=torch.bool) if given is None else given
    sampler = _Sampler(prior, config, seed, _ids(samples, rows))
    controls = {track.name: mask & prior.positions_of(track.name).to(mask.device) for track in sampler.predicted_tracks}
    named = {name for name, here in controls.items() if here.any()} | (set(prior.reads) & tokens.keys())
    require_guidable(prior, sampler.config.guidance, named)
    steered = sum(controls.values(), torch.zeros_like(mask))
    return sampler.draw(tokens, mask.expand(rows, -1), steered, Placement(0, 0, prior.spec.frames))


def sample_video(
    prior: Prior,
    tokens: Tokens,
    frames: int,
    config: SamplingConfig | None = None,
    *,
    seed: int = 0,
    samples: Tensor | None = None,
) -> Samples:
    """Draws a video of any number of frames, continuing what `tokens` begin.

    All of `tokens` is given: of a stream that runs with the video its first steps (any number; whole where the prior
    only reads it), of others (a class) the whole. `end_step`, the step at which an end frame is reached, counts from
    the video's start, and is its last one where left out; a window that it lies outside of is drawn as if no end was
    given, if the prior was trained so. Past the trained length the window slides by `config.slide` frames and the prior
    starts again on the codes that stay in it. Raises as `sample` does, and ConfigError where the frames, or the slide,
    do not fill whole steps.
    """
    parts = list(sample_windows(prior, tokens, frames, config, seed=seed, samples=samples))
    return Samples(
        {name: torch.cat([part.tokens[name] for part in parts if name in part.tokens], 1) for name in parts[0].tokens},
        {name: torch.cat([part.nats[name] for part in parts if name in part.nats], 1) for name in parts[0].nats},
        sum(part.forwards for part in parts),
        sum(part.tokens_sampled for part in parts),
    )


def sample_windows(
    prior: Prior,
    tokens: Tokens,
    frames: int,
    config: SamplingConfig | None = None,
    *,
    seed: int = 0,
    samples: Tensor | None = None,
) -> Iterator[Samples]:
    """`sample_video` in parts, in memory that does not grow with `frames`: first the steps of a whole clip (or of fewer
    frames), then those that each slide adds. Streams that do not run with the video come with the first part only.
    """
    sampler = _Sampler(prior, config, seed, _ids(samples, _count_rows(tokens, None, samples)))
    running = [stream for stream in sampler.streams if prior.spec.runs_with_video(stream)]
    tokens = _known(prior, tokens, frames)
    require_guidable(prior, sampler.config.guidance, tokens)
    check_beginnings(prior, tokens, running, frames)
    held = dict(tokens)  # stream name -> what is known of it from the first step of the window on
    require_end_in_windows(prior, tokens, frames)
    for place in placements(prior.spec, running, frames, sampler.config.window_stride):
        for stream in running:
            carry(held, tokens.get(stream.name), stream, place)
        part = sampler.draw(*window_tokens(prior, held, sampler.rows, place), sampler.steered(tokens, place), place)
        held |= part.tokens
        yield _new_steps(prior, part, place)


class _Sampler:
    """What stays the same from window to window."""

    def __init__(self, prior: Prior, config: SamplingConfig | None, seed: int, ids: Tensor) -> None:
        self.prior, self.seed, self.ids, self.rows = prior, seed, ids, len(ids)
        self.config = config or SamplingConfig()
        self.streams = [prior.spec.stream(name) for name in (*prior.reads, *prior.predicts)]
        # Guidance follows these where given; what a prior of tracks alone draws was never absent in its training.
        self.predicted_tracks = [
            s for s in self.streams if s.name in prior.predicts and s.name in prior.control_streams
        ]
        self.order = prior.order()
        settings = self.config.of_streams([stream.name for stream in prior.spec.streams])
        self.choice = Choice(settings, self.order[:, 0].to(prior.device))

    def steered(self, tokens: Tokens, place: Placement) -> Tensor:
        """bool [L]: the predicted tracks' positions in the window at `place` that `tokens`, begun streams, hold."""
        steered = torch.zeros(len(self.order), dtype=torch.bool)
        for track in self.predicted_tracks:
            if track.name in tokens:
                start = place.start // track.stride if self.prior.spec.runs_with_video(track) else 0
                begun = self.order[:, 1] + start < tokens[track.name].shape[1]
                steered |= self.prior.positions_of(track.name) & begun
        return steered

    @torch.no_grad()
    def draw(self, tokens: Tokens, given: Tensor, steered: Tensor, place: Placement) -> Samples:
        """Draws what is not given (bool [B, L]) in the window at `place`, as far as it is wanted. `steered` [B or 1, L]
        are the given ones that guidance is to follow.
        """
        prior, guidance = self.prior, self.config.guidance
        tokens, given = self._complete(tokens, given), given.to(prior.device)
        null = without_controls(prior, tokens, steered.to(prior.device)) if guidance != 1 else None
        if null is not None and all(torch.equal(null[name], indices) for name, indices in tokens.items()):
            null = None  # nothing steers this window: one that does not reach the end frame
        numbers = torch.from_numpy(uniforms(self.seed, self.ids.numpy(), self._code_ids(place).numpy()))
        drawn = ~given & self._until_wanted(place).to(prior.device)
        with _evaluating(prior):
            window = Window(tokens, given, drawn, numbers.to(prior.device), null, guidance)
            result = draw_window(prior, window, self.choice, self.config.speculate)
        indices = prior.unflatten(result.indices, tokens)
        return Samples(indices, prior.unflatten(result.nats), result.forwards, int(drawn.sum()))

    def _complete(self, tokens: Tokens, given: Tensor) -> dict[str, Tensor]:
        """Every stream that the prior knows, checked, on its device; where nothing is given null codes, or zeros."""
        complete = dict[str, Tensor]()
        for stream in self.streams:
            indices, read = tokens.get(stream.name), stream.name in self.prior.reads
            if indices is None:
                null = stream.unconditional_token if read and stream.role == "control" else None
                if (read and null is None) or given[:, self.prior.positions_of(stream.name)].any():
                    raise ConfigError(f"tokens lack stream {stream.name!r}, which the prior needs given")
                indices = torch.full((self.rows, *stream.shape), null or 0, device=self.prior.device)
            if tuple(indices.shape[1:]) != stream.shape:
                raise DataError(f"stream {stream.name!r}: its codes are {list(indices.shape[1:])}, not {stream.shape}")
            complete[stream.name] = indices
        flat = self.prior.flatten(complete).masked_fill(~given.to(self.prior.device), 0)
        for stream in self.streams:
            read = stream.name in self.prior.reads
            _check_codes(stream, complete[stream.name] if read else flat[:, self.prior.positions_of(stream.name)])
        return complete

    def _code_ids(self, place: Placement) -> Tensor:
        """int64 [L]: a number for each code of the video, the same in whichever window it is drawn."""
        ids = torch.empty(len(self.order), dtype=torch.long)
        for index, stream in enumerate(self.prior.spec.streams):
            here = self.prior.positions_of(stream.name)
            t, h, w, q = self.order[here, 1:].unbind(1)
            if self.prior.spec.runs_with_video(stream):
                t = t + place.start // stream.stride
            in_stream = ((t * stream.grid[1] + h) * stream.grid[2] + w) * stream.codebooks + q
            ids[here] = index * _IDS_OF_A_STREAM + in_stream
        return ids

    def _until_wanted(self, place: Placement) -> Tensor:
        """bool [L]: up to the last position that the wanted frames need."""
        wanted = torch.ones(len(self.order), dtype=torch.bool)
        for stream in self.streams:
            if self.prior.spec.runs_with_video(stream):
                steps = self.prior.spec.steps_of_frames(place.wanted, stream)
                wanted &= ~self.prior.positions_of(stream.name) | (self.order[:, 1] < steps)
        return wanted.flip(0).cummax(0).values.flip(0)


@contextlib.contextmanager
def _evaluating(prior: Prior) -> Iterator[None]:
    """Without dropout, whatever mode the caller is in."""
    training = prior.training
    prior.eval()
    try:
        yield
    finally:
        prior.train(training)


def _known(prior: Prior, tokens: Tokens, frames: int) -> dict[str, Tensor]:
    """The streams that the prior reads or predicts, on its device, and the last step of the video's `frames` as that of
    an end frame without one. Raises ConfigError for a name the spec lacks.
    """
    names = {prior.spec.stream(name).name for name in tokens} & {*prior.reads, *prior.predicts}
    known = {name: tokens[name].to(prior.device, torch.long) for name in names}
    if END_STEP in known and END not in known:
        raise ConfigError(f"tokens hold {END_STEP!r} and lack {END!r}: give both, or neither")
    if END in known and END_STEP in prior.reads and END_STEP not in known:
        last = prior.spec.steps_of_frames(frames, prior.spec.levels[0]) - 1
        known[END_STEP] = torch.full((len(known[END]), 1, 1, 1, 1), last, device=prior.device)
    return known


def _new_steps(prior: Prior, part: Samples, place: Placement) -> Samples:
    """The steps of the window at `place` that are wanted and that no window before it held."""
    tokens, nats = dict[str, Tensor](), dict[str, Tensor]()
    for name in part.tokens:
        stream = prior.spec.stream(name)
        if prior.spec.runs_with_video(stream):
            new = slice(*(prior.spec.steps_of_frames(frames, stream) for frames in (place.done, place.wanted)))
            tokens[name], nats[name] = part.tokens[name][:, new], part.nats[name][:, new]
        elif not place.start:
            tokens[name], nats[name] = part.tokens[name], part.nats[name]
    return Samples(tokens, nats, part.forwards, part.tokens_sampled)


def _check_codes(stream: StreamSpec, indices: Tensor) -> None:
    """Raises DataError where a code is outside of the codebook; the null code is allowed where the stream has one."""
    limit = stream.codebook_size + (stream.unconditional_token is not None)
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < limit:
        raise DataError(
            f"stream {stream.name!r} has tokens from {int(indices.min())} to {int(indices.max())}, but its codebook "
            f"only {stream.codebook_size}: these tokens come from another tokenizer"
        )


def _count_rows(tokens: Tokens, given: Tensor | None, samples: Tensor | None) -> int:
    sizes = {name: indices.shape[0] for name, indices in tokens.items()}
    if given is not None and given.ndim == 2:
        sizes["given"] = given.shape[0]
    if samples is not None:
        sizes["samples"] = samples.shape[0]
    if not sizes:
        raise ConfigError("nothing says how many samples to draw: pass samples, their ids")
    if len(set(sizes.values())) > 1:
        raise DataError(f"tokens, given and samples must have the same number of rows, got {sizes}")
    return next(iter(sizes.values()))


def _ids(samples: Tensor | None, rows: int) -> Tensor:
    return torch.arange(rows) if samples is None else samples.cpu()
