"""Whether a cascade can generate what is asked for, checked before anything is written."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import torch

from tokenreel.data.spec import END, END_STEP, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.pipelines.generation.cascade import cascade_spec, sampling_for
from tokenreel.pipelines.generation.config import GenerationConfig
from tokenreel.priors.base import Prior
from tokenreel.priors.sampling.guidance import require_end_in_windows, require_guidable
from tokenreel.priors.sampling.sliding_window import window_spans


def check_generation(priors: Sequence[Prior], config: GenerationConfig, controls: Collection[str] = ()) -> None:
    """Raises ConfigError for numbers of frames that the priors cannot generate, for settings of streams that they do
    not sample, and for guidance that the given `controls` do not allow.
    """
    spec = priors[0].spec
    require_given_frames(spec, config.given_frames)
    if spec.time == "window":
        priors[0].given_frames(config.given_frames)  # only so many were also encoded without those after them
        if config.frames not in (None, spec.frames):
            raise ConfigError(
                f"--frames (={config.frames}) must be {spec.frames}, its default: this tokenizer encodes whole clips"
            )
    _check_streams(priors, config)
    given = set(controls)
    for prior in priors:
        require_learned(prior, config.given_frames, f"--given-frames (={config.given_frames})")
        require_guidable(prior, sampling_for(prior, priors, config.sampling, controls).guidance, given)
        _check_windows(prior, config, with_end=END in controls and END in prior.reads)
        given |= set(prior.predicts)


def require_given_frames(spec: TokenSpec, count: int) -> None:
    """Raises ConfigError for a number of given frames that a clip of `spec` does not have."""
    if not 0 <= count <= spec.frames:
        raise ConfigError(f"--given-frames (={count}) must be between 0 and {spec.frames}, the frames of a clip")


def _check_streams(priors: Sequence[Prior], config: GenerationConfig) -> None:
    sampled = [name for prior in priors for name in prior.predicts]
    config.sampling.of_streams([stream.name for stream in cascade_spec(priors).streams])
    for name in config.sampling.streams:
        if name not in sampled:
            raise ConfigError(
                f"--top-k-of {name}: stream {name!r} is not sampled by these priors (sampled: {', '.join(sampled)})"
            )


def require_learned(prior: Prior, given_frames: int, what: str) -> None:
    """Raises ConfigError for fewer `given_frames`, as `what` names them, than were given in the prior's training."""
    if given_frames < prior.trained_given_frames:
        names = " and ".join(repr(name) for name in prior.predicts)
        raise ConfigError(
            f"{what}, but the prior of {names} was trained with {prior.trained_given_frames} given: it has not learned "
            "the tokens of these. Give more, or train it with a smaller training.given_frames"
        )


def _check_windows(prior: Prior, config: GenerationConfig, with_end: bool) -> None:
    """Raises ConfigError for frames, a window stride or an end frame that the windows of the video do not allow."""
    spec = prior.spec
    if spec.time != "framewise":
        return
    frames = config.frames or spec.frames
    streams = map(spec.stream, (*prior.reads, *prior.predicts))
    running = [stream for stream in streams if spec.runs_with_video(stream)]
    for span in itertools.islice(window_spans(spec, running, frames, config.sampling.window_stride), 1, 2):
        stride = f"--window-stride (={spec.frames - span.overlap})"
        require_learned(prior, span.overlap, f"{stride} leaves {span.overlap} frames given in later windows")
    if with_end:
        token, last = torch.zeros(1, 1, 1, 1, 1), spec.steps_of_frames(frames, spec.levels[0]) - 1
        require_end_in_windows(prior, {END: token, END_STEP: token.long() + last}, frames)
