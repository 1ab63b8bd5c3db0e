"""What the priors of a cascade are given: the tokens of given frames, of given controls and of an end frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.controls.end_frame import end_tokens
from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.pipelines.generation.cascade import sampled_controls
from tokenreel.priors.base import Prior


def known_controls(priors: Sequence[Prior]) -> list[str]:
    """All controls that some prior was trained with; the end frame is `end`."""
    names = [stream.name for prior in priors for stream in _control_streams(prior) if stream.name != END_STEP]
    return list(dict.fromkeys(names))


def choose_controls(priors: Sequence[Prior], names: Sequence[str] | None) -> list[str]:
    """The controls that are given: `names`, or (None) all that the priors know and that no control prior samples.

    Raises ConfigError for a name that is none of these.
    """
    sampled = sampled_controls(priors)
    known = [name for name in known_controls(priors) if name not in sampled]
    for name in names or ():
        if name in sampled:
            raise ConfigError(f"--given-controls {name}: a control prior samples it; omit one of the two")
        if name not in known:
            raise ConfigError(f"--given-controls {name}: this prior was not trained with it (it has: {_listed(known)})")
    return list(dict.fromkeys(known if names is None else names))


def require_controls(priors: Sequence[Prior], names: Collection[str]) -> None:
    """Raises ConfigError unless some prior was trained with each of the named controls."""
    known = known_controls(priors)
    for name in names:
        if name not in known:
            raise ConfigError(f"this prior was not trained with the control {name!r} (it has: {_listed(known)})")


def require_same_controls(prior: Prior, spec: TokenSpec, names: Collection[str]) -> None:
    """Raises ConfigError unless tokens of `spec` have the named controls, and all others that are taken from them, as
    the prior was trained with them: encoded alike, by the same encoder. An end frame is taken from the level.
    """
    found = {stream.name: stream for stream in spec.streams if stream.role == "control"}
    for control in _control_streams(prior):
        if control.name in names and control.name != END and control.name not in found:
            raise ConfigError(
                f"the prior needs the control {control.name!r}, which the tokens lack (they have: {_listed(found)})"
            )
        if control.name in found and (control.name in names or prior.spec.runs_with_video(control)):
            other = found[control.name]
            if dataclasses.replace(other, grid=(control.grid[0], *other.grid[1:]), stride=control.stride) != control:
                raise ConfigError(
                    f"the prior needs the control {_described(control)}, but that of the tokens is {_described(other)}"
                )


def given_tokens(
    priors: Sequence[Prior],
    tokens: Mapping[str, np.ndarray],
    given_frames: int,
    controls: Collection[str] = (),
    frames: int | None = None,
) -> dict[str, Tensor]:
    """What the priors are given of `tokens`, integers [N, t, h, w, q] by stream -> int64 [N, steps, h, w, q] by stream.

    That is the code steps of the first `given_frames` frames of each level, and the `controls`, as far as they reach in
    a video of `frames` frames (None: a clip). Of other controls that run with the video, if `tokens` have them, it is
    the part of the given frames, which sampling continues. For a `window` tokenizer it is the given frames encoded
    alone. An end frame that `tokens` lack is the clip's last frame, or the video's last one if that is shorter.
    """
    if priors[0].spec.time == "window":
        given = _encoded_alone(priors, tokens)
    else:
        given, frames = {}, frames or priors[0].spec.frames
        for prior in priors:
            given |= _given_levels(prior, tokens, given_frames)
            given |= _given_controls(prior, tokens, given_frames, controls, frames)
            if END in controls and END in prior.reads:
                given |= _end_frame(prior.spec, tokens, frames)
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in given.items()}


def _encoded_alone(priors: Sequence[Prior], tokens: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    reads = dict.fromkeys(name for prior in priors for name in prior.reads)
    return {name: tokens[name] for name in reads if priors[0].spec.stream(name).role == "control"}


def _given_levels(prior: Prior, tokens: Mapping[str, np.ndarray], given_frames: int) -> dict[str, np.ndarray]:
    streams = map(prior.spec.stream, prior.predicts)
    return {
        stream.name: tokens[stream.name][:, : prior.spec.steps_of_frames(given_frames, stream, "given frames")]
        for stream in streams
        if stream.role == "level"
    }


def _given_controls(
    prior: Prior, tokens: Mapping[str, np.ndarray], given_frames: int, controls: Collection[str], frames: int
) -> dict[str, np.ndarray]:
    given = {}
    for control in _control_streams(prior):
        chosen, runs = control.name in controls, prior.spec.runs_with_video(control)
        if control.name in tokens and (chosen or runs):
            steps = prior.spec.steps_of_frames(frames if chosen else given_frames, control) if runs else 1
            given[control.name] = tokens[control.name][:, :steps]
    return given


def _end_frame(spec: TokenSpec, tokens: Mapping[str, np.ndarray], frames: int) -> dict[str, np.ndarray]:
    """The end frame of each clip, placed at the last step of a video of `frames` frames."""
    (level,) = spec.levels
    clips, last = tokens[level.name], spec.steps_of_frames(frames, level) - 1
    if END not in tokens:
        tokens = end_tokens(spec, tokens, np.full(len(clips), min(last, clips.shape[1] - 1)))
    return {END: tokens[END], END_STEP: np.full((len(clips), 1, 1, 1, 1), last)}


def _control_streams(prior: Prior) -> list[StreamSpec]:
    """A `window` tokenizer's given frames have the role of controls in its spec, and are none."""
    if prior.spec.time == "window":
        return []
    streams = map(prior.spec.stream, (*prior.reads, *prior.predicts))
    return [stream for stream in streams if stream.role == "control"]


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _described(control: StreamSpec) -> str:
    encoder = f"encoder {control.encoder_fingerprint[:12]}..." if control.encoder_fingerprint else "no known encoder"
    return f"{control.name!r} ({list(control.shape)}, codebook size {control.codebook_size}, {encoder})"
