"""The sampler of all priors: tokens of a clip, or of a video longer than the prior was trained on.

Random numbers belong to (seed, sample id, token), so a sample depends neither on its batch nor on how it is sampled.

B rows (samples), L positions of the prior's order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.counter_rng import uniforms
from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError, DataError
from tokenreel.priors.base import Prior, Tokens, vocabulary_size
from tokenreel.priors.sampling.guidance import drop_controls, require_end_in_windows, require_guidable
from tokenreel.priors.sampling.logits import SamplingConfig, TokenSampler
from tokenreel.priors.sampling.loop import OnTokens, Window, ignore, sample_window
from tokenreel.priors.sampling.sliding_window import (
    WindowSpan,
    advance,
    check_given_steps,
    window_spans,
    window_tokens,
)

_IDS_PER_STREAM = 2**48  # a year of video with 8,000 tokens per frame stays below 2^43


@dataclass(frozen=True)
class Samples:
    """Tokens of the predicted streams, given ones included, and the cost of sampling them."""

    tokens: dict[str, Tensor]  # stream name -> int64 [B, t, h, w, q]
    nats: dict[str, Tensor]  # stream name -> float32 [B, t, h, w, q], negative log-probs under the prior; 0 if given
    forwards: float  # forward passes of the prior per row; their mean where rows differ
    tokens_sampled: int  # over all rows

    def __repr__(self) -> str:
        """Shapes only, as the tokens would fill pages."""
        shapes = ", ".join(f"{name} {list(indices.shape)}" for name, indices in self.tokens.items())
        return f"Samples({shapes}; forwards={self.forwards:g}, tokens_sampled={self.tokens_sampled:,})"

    @property
    def tokens_per_forward(self) -> float:
        """The mean number of tokens that a row gains by a forward pass."""
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
    """Samples all tokens of a clip that are not given.

    `tokens` hold the streams that the prior reads, and those predicted streams of which anything is given. A control
    that the prior reads may be omitted if the prior was trained without it. `given` is bool [L] or [B, L] (default:
    none), true anywhere in the order. `samples` are the ids of the rows, int64 [B] and not negative (default: 0, 1,
    2...): the same seed and id give the same tokens in any batch. Raises ConfigError or DataError where streams are
    missing or have another shape, where tokens are beyond their codebook, where guidance has no control to follow, and
    where a control is omitted that the prior was never trained without.
    """
    rows = _count_rows(tokens, given, samples)
    tokens = _select_streams(prior, tokens, prior.spec.frames)
    mask = torch.zeros(len(prior.order()), dtype=torch.bool) if given is None else given
    sampler = _Sampler(prior, config, seed, _ids(samples, rows))
    controls = {name: mask & prior.positions_of(name).to(mask.device) for name in sampler.predicted_controls}
    predicted = {name for name, positions in controls.items() if positions.any()}
    require_guidable(prior, sampler.config.guidance, predicted | (set(prior.reads) & tokens.keys()))
    given_controls = sum(controls.values(), torch.zeros_like(mask))
    return sampler.sample(tokens, mask.expand(rows, -1), given_controls, WindowSpan(0, 0, prior.spec.frames))


def sample_video(
    prior: Prior,
    tokens: Tokens,
    frames: int,
    config: SamplingConfig | None = None,
    *,
    seed: int = 0,
    samples: Tensor | None = None,
    on_tokens: OnTokens | None = None,
) -> Samples:
    """Samples a video of any number of frames that continues `tokens`.

    All of `tokens` are given: the first steps of streams that run with the video (any number; all steps if the prior
    only reads the stream), other streams (a class) completely. `end_step`, the step of an end frame, counts from the
    start of the video (default: its last step); windows without that step are sampled without end frame, if the prior
    was trained so. Beyond the trained length the window moves by `config.window_stride` frames, and the prior starts
    again with the tokens that stay in it. `on_tokens` is called now and then with the number of tokens sampled since.

    Raises as `sample` does, and ConfigError where the frames or the stride do not fill whole steps.
    """
    sampler = _Sampler(prior, config, seed, _ids(samples, _count_rows(tokens, None, samples)), on_tokens or ignore)
    running = [stream for stream in sampler.streams if prior.spec.runs_with_video(stream)]
    tokens = _select_streams(prior, tokens, frames)
    require_guidable(prior, sampler.config.guidance, tokens)
    check_given_steps(prior, tokens, running, frames)
    known = dict(tokens)  # stream name -> its known tokens from the first step of the window on
    require_end_in_windows(prior, tokens, frames)
    parts = list[Samples]()
    for span in window_spans(prior.spec, running, frames, sampler.config.window_stride):
        for stream in running:
            advance(known, tokens.get(stream.name), stream, span)
        clip, given = window_tokens(prior, known, sampler.rows, span)
        part = sampler.sample(clip, given, sampler.given_controls(tokens, span), span)
        known |= part.tokens
        parts.append(_new_steps(prior, part, span))
    return Samples(
        {name: torch.cat([part.tokens[name] for part in parts if name in part.tokens], 1) for name in parts[0].tokens},
        {name: torch.cat([part.nats[name] for part in parts if name in part.nats], 1) for name in parts[0].nats},
        sum(part.forwards for part in parts),
        sum(part.tokens_sampled for part in parts),
    )


def with_given_steps(spec: TokenSpec, name: str, tokens: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    """`tokens` [B, t, h, w, q] of the stream `name`, with its first steps from `given` if `spec` has them:
    for a `window` tokenizer these are the tokens of the given frames encoded alone, which no prior predicts.
    """
    stream = spec.given_stream(spec.stream(name))
    if stream is None:
        return tokens
    first = given[stream.name].to(tokens)
    return torch.cat([first, tokens[:, first.shape[1] :]], 1)


class _Sampler:
    """What is the same for all windows."""

    def __init__(
        self, prior: Prior, config: SamplingConfig | None, seed: int, ids: Tensor, on_tokens: OnTokens = ignore
    ) -> None:
        self.on_tokens = on_tokens
        self.prior, self.seed, self.ids, self.rows = prior, seed, ids, len(ids)
        self.config = config or SamplingConfig()
        self.streams = [prior.spec.stream(name) for name in (*prior.reads, *prior.predicts)]
        # Guidance follows these where given. A control prior has none: what it predicts was never dropped in training.
        self.predicted_controls = [name for name in prior.predicts if name in prior.control_streams]
        self.order = prior.order()
        settings = self.config.of_streams([stream.name for stream in prior.spec.streams])
        self.token_sampler = TokenSampler(settings, self.order[:, 0].to(prior.device))

    def given_controls(self, tokens: Tokens, span: WindowSpan) -> Tensor:
        """bool [L]: the positions of predicted controls that `tokens`, first steps of the video, give in a window."""
        given = torch.zeros(len(self.order), dtype=torch.bool)
        for control in map(self.prior.spec.stream, self.predicted_controls):
            if control.name in tokens:
                start = span.start // control.stride if self.prior.spec.runs_with_video(control) else 0
                in_tokens = self.order[:, 1] + start < tokens[control.name].shape[1]
                given |= self.prior.positions_of(control.name) & in_tokens
        return given

    @torch.no_grad()
    def sample(self, tokens: Tokens, given: Tensor, given_controls: Tensor, span: WindowSpan) -> Samples:
        """Samples what is not given (bool [B, L]) in a window, as far as its frames need it. `given_controls` [B or 1,
        L] are the given positions that guidance follows.
        """
        prior, guidance = self.prior, self.config.guidance
        tokens, given = self._complete(tokens, given), given.to(prior.device)
        unconditional = drop_controls(prior, tokens, given_controls.to(prior.device)) if guidance != 1 else None
        if unconditional is not None and all(torch.equal(unconditional[name], x) for name, x in tokens.items()):
            unconditional = None  # nothing to guide in this window, as in one without the end frame
        numbers = torch.from_numpy(uniforms(self.seed, self.ids.numpy(), self._token_ids(span).numpy()))
        free = ~given & self._required(span).to(prior.device)
        with _evaluating(prior):
            window = Window(tokens, given, free, numbers.to(prior.device), unconditional, guidance)
            result = sample_window(prior, window, self.token_sampler, self.config.speculate, self.on_tokens)
        indices = prior.unflatten(result.indices, tokens)
        return Samples(indices, prior.unflatten(result.nats), result.forwards, int(free.sum()))

    def _complete(self, tokens: Tokens, given: Tensor) -> dict[str, Tensor]:
        """Every stream of the prior, checked, on its device; omitted ones have unconditional tokens, or zeros."""
        complete = dict[str, Tensor]()
        for stream in self.streams:
            indices, read = tokens.get(stream.name), stream.name in self.prior.reads
            if indices is None:
                unconditional = stream.unconditional_token if read and stream.role == "control" else None
                if (read and unconditional is None) or given[:, self.prior.positions_of(stream.name)].any():
                    raise ConfigError(f"tokens lack stream {stream.name!r}, which must be given to this prior")
                indices = torch.full((self.rows, *stream.shape), unconditional or 0, device=self.prior.device)
            if tuple(indices.shape[1:]) != stream.shape:
                raise DataError(
                    f"stream {stream.name!r}: expected tokens of shape {list(stream.shape)} per clip, got "
                    f"{list(indices.shape[1:])}"
                )
            complete[stream.name] = indices
        flat = self.prior.flatten(complete).masked_fill(~given.to(self.prior.device), 0)
        for stream in self.streams:
            read = stream.name in self.prior.reads
            _check_range(stream, complete[stream.name] if read else flat[:, self.prior.positions_of(stream.name)])
        return complete

    def _token_ids(self, span: WindowSpan) -> Tensor:
        """int64 [L]: a number for each token of the video, the same in all windows."""
        ids = torch.empty(len(self.order), dtype=torch.long)
        for index, stream in enumerate(self.prior.spec.streams):
            positions = self.prior.positions_of(stream.name)
            t, h, w, q = self.order[positions, 1:].unbind(1)
            if self.prior.spec.runs_with_video(stream):
                t = t + span.start // stream.stride
            in_stream = ((t * stream.grid[1] + h) * stream.grid[2] + w) * stream.codebooks + q
            ids[positions] = index * _IDS_PER_STREAM + in_stream
        return ids

    def _required(self, span: WindowSpan) -> Tensor:
        """bool [L]: the positions up to the last one that the frames of the window need."""
        required = torch.ones(len(self.order), dtype=torch.bool)
        for stream in self.streams:
            if self.prior.spec.runs_with_video(stream):
                steps = self.prior.spec.steps_of_frames(span.frames, stream)
                required &= ~self.prior.positions_of(stream.name) | (self.order[:, 1] < steps)
        return required.flip(0).cummax(0).values.flip(0)


@contextlib.contextmanager
def _evaluating(prior: Prior) -> Iterator[None]:
    """Evaluation mode inside the block; the prior's own mode is restored at its end."""
    training = prior.training
    prior.eval()
    try:
        yield
    finally:
        prior.train(training)


def _select_streams(prior: Prior, tokens: Tokens, frames: int) -> dict[str, Tensor]:
    """The streams of `tokens` that the prior reads or predicts, on its device; an end frame without a step gets the
    last step of the video's `frames`. Raises ConfigError for a name that the spec lacks.
    """
    names = {prior.spec.stream(name).name for name in tokens} & {*prior.reads, *prior.predicts}
    selected = {name: tokens[name].to(prior.device, torch.long) for name in names}
    if END_STEP in selected and END not in selected:
        raise ConfigError(f"tokens have {END_STEP!r} but lack {END!r}: give both or neither")
    if END in selected and END_STEP in prior.reads and END_STEP not in selected:
        last = prior.spec.steps_of_frames(frames, prior.spec.levels[0]) - 1
        selected[END_STEP] = torch.full((len(selected[END]), 1, 1, 1, 1), last, device=prior.device)
    return selected


def _new_steps(prior: Prior, part: Samples, span: WindowSpan) -> Samples:
    """The steps of a window that no earlier window contains; streams that do not run with the video in the first one
    only.
    """
    tokens, nats = dict[str, Tensor](), dict[str, Tensor]()
    for name in part.tokens:
        stream = prior.spec.stream(name)
        if prior.spec.runs_with_video(stream):
            new = slice(*(prior.spec.steps_of_frames(frames, stream) for frames in (span.overlap, span.frames)))
            tokens[name], nats[name] = part.tokens[name][:, new], part.nats[name][:, new]
        elif not span.start:
            tokens[name], nats[name] = part.tokens[name], part.nats[name]
    return Samples(tokens, nats, part.forwards, part.tokens_sampled)


def _check_range(stream: StreamSpec, indices: Tensor) -> None:
    """Raises DataError for a token outside the codebook that is not the stream's unconditional token."""
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < vocabulary_size(stream):
        raise DataError(
            f"stream {stream.name!r} has tokens from {int(indices.min())} to {int(indices.max())}, but a codebook size "
            f"of {stream.codebook_size}: these tokens come from another tokenizer"
        )


def _count_rows(tokens: Tokens, given: Tensor | None, samples: Tensor | None) -> int:
    sizes = {name: indices.shape[0] for name, indices in tokens.items()}
    if given is not None and given.ndim == 2:
        sizes["given"] = given.shape[0]
    if samples is not None:
        sizes["samples"] = samples.shape[0]
    if not sizes:
        raise ConfigError("samples (=None) must be given without tokens: pass the ids of the samples")
    if len(set(sizes.values())) > 1:
        raise DataError(f"tokens, given and samples must have the same number of rows, got {sizes}")
    return next(iter(sizes.values()))


def _ids(samples: Tensor | None, rows: int) -> Tensor:
    return torch.arange(rows) if samples is None else samples.cpu()
