"""A cascade: priors that generate one clip in turn. Control priors sample what the others are conditioned on; the
others predict levels, each conditioned on those before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.progress import Progress
from tokenreel.pipelines.generation.config import GenerationConfig
from tokenreel.priors.base import Prior
from tokenreel.priors.sampling.logits import SamplingConfig
from tokenreel.priors.sampling.video import Samples, sample_video, with_given_steps


def load_priors(paths: Sequence[str], device: torch.device, revision: str | None = None) -> list[Prior]:
    """The saved priors in the order in which they generate: control priors, then coarse levels before fine ones.

    Raises ConfigError where a prior is conditioned on a level that none before it predicts, where a level has no prior
    or two, and where a sampled control conditions no prior.
    """
    priors = [Prior.from_pretrained(path, revision=revision).eval().to(device) for path in paths]
    control_priors = [prior for prior in priors if not prior.predicts_frames]
    _check_control_priors(priors, control_priors)
    return [*control_priors, *_coarse_to_fine([prior for prior in priors if prior.predicts_frames])]


def sampled_controls(priors: Sequence[Prior]) -> set[str]:
    """The controls that control priors sample."""
    return {name for prior in priors if not prior.predicts_frames for name in prior.predicts}


def _check_control_priors(priors: Sequence[Prior], control_priors: Sequence[Prior]) -> None:
    """Raises ConfigError unless each sampled control has one control prior, and a prior that is conditioned on the same
    control, in clips of the same length.
    """
    sampled = [(name, prior) for prior in control_priors for name in prior.predicts]
    names = [name for name, _ in sampled]
    for name, prior in sampled:
        if names.count(name) > 1:
            raise ConfigError(f"--prior: two control priors sample the control {name!r}: give one")
        conditioned = [other for other in priors if other.predicts_frames and name in other.control_streams]
        if not conditioned:
            raise ConfigError(
                f"--prior: the control {name!r}, which a control prior samples, conditions no other prior: give a "
                "prior that was trained with it"
            )
        for other in conditioned:
            if other.spec.stream(name) != prior.spec.stream(name) or other.spec.frames != prior.spec.frames:
                raise ConfigError(
                    f"--prior: the control prior that samples {name!r} and the prior that is conditioned on it were "
                    "trained with different controls, or on clips of different lengths: train both on one cache"
                )


def _coarse_to_fine(priors: Sequence[Prior]) -> list[Prior]:
    """The priors of levels, sorted so that each is conditioned only on levels before it."""
    waiting, ordered, predicted = list(priors), list[Prior](), set[str]()
    levels = {level.name for prior in priors for level in prior.spec.levels}
    while waiting:
        ready = next((prior for prior in waiting if levels & set(prior.reads) <= predicted), None)
        if ready is None:
            missing = sorted(levels & set(waiting[0].reads) - predicted)
            raise ConfigError(
                f"--prior: the prior of {list(waiting[0].predicts)} is conditioned on {missing}: give its prior as well"
            )
        if twice := sorted(predicted & levels & set(ready.predicts)):
            raise ConfigError(f"--prior: two priors predict {twice}: give one per level")
        waiting.remove(ready)
        ordered.append(ready)
        predicted |= set(ready.predicts)
    if levels - predicted:
        raise ConfigError(f"--prior: no prior predicts {sorted(levels - predicted)}: give one per level")
    return ordered


def cascade_spec(priors: Sequence[Prior]) -> TokenSpec:
    """The spec with the streams of all the priors."""
    streams = {stream.name: stream for prior in priors for stream in prior.spec.streams}
    return dataclasses.replace(priors[0].spec, streams=tuple(streams.values()))


def sampling_for(
    prior: Prior, priors: Sequence[Prior], sampling: SamplingConfig, given: Iterable[str]
) -> SamplingConfig:
    """The part of `sampling` that concerns `prior`, with the streams `given`.

    Where control priors are conditioned on given streams only they are guided: the controls that they sample are not
    to be exaggerated once more.
    """
    guided = [other for other in priors if not other.predicts_frames and set(other.reads) & set(given)] or priors
    names = {stream.name for stream in prior.spec.streams}
    return dataclasses.replace(
        sampling,
        guidance=sampling.guidance if prior in guided else 1.0,
        streams={name: setting for name, setting in sampling.streams.items() if name in names},
    )


def generate_tokens(priors: Sequence[Prior], given: Mapping[str, Tensor], config: GenerationConfig) -> Samples:
    """Samples 0 .. num - 1, each continuing its row of `given` (tokens by stream), in batches. They hold all streams
    that are given or predicted.
    """
    parts = list(_batches(priors, given, config))
    rows = [len(next(iter(part.tokens.values()))) for part in parts]
    return Samples(
        {name: torch.cat([part.tokens[name] for part in parts]) for name in parts[0].tokens},
        {name: torch.cat([part.nats[name] for part in parts]) for name in parts[0].nats},
        sum(part.forwards * count for part, count in zip(parts, rows, strict=True)) / sum(rows),
        sum(part.tokens_sampled for part in parts),
    )


def _batches(priors: Sequence[Prior], given: Mapping[str, Tensor], config: GenerationConfig) -> Iterator[Samples]:
    with Progress(config.num * _tokens_to_sample(priors, given, config), "sample", "token") as bar:
        for first in range(0, config.num, config.batch):
            ids = torch.arange(first, min(first + config.batch, config.num))
            yield _generate_batch(priors, {name: indices[ids] for name, indices in given.items()}, config, ids, bar)


def _tokens_to_sample(priors: Sequence[Prior], given: Mapping[str, Tensor], config: GenerationConfig) -> int:
    """Of each sample, by all priors."""
    count = 0
    for prior in priors:
        for stream in map(prior.spec.stream, prior.predicts):
            per_step = stream.positions // stream.grid[0]
            runs = prior.spec.runs_with_video(stream)
            steps = prior.spec.steps_of_frames(config.frames or prior.spec.frames, stream) if runs else stream.grid[0]
            known = prior.spec.given_stream(stream) or stream  # of a `window` tokenizer: encoded alone, not predicted
            count += per_step * (steps - (given[known.name].shape[1] if known.name in given else 0))
    return count


def _generate_batch(
    priors: Sequence[Prior], given: Mapping[str, Tensor], config: GenerationConfig, ids: Tensor, bar: Progress
) -> Samples:
    """The samples `ids`, by one prior after the other. Priors of levels share the seed, as random numbers belong to
    (seed, sample, token); each control prior has a seed of its own.
    """
    tokens, nats, forwards, sampled = dict(given), dict[str, Tensor](), 0.0, 0
    for prior in priors:
        start = {name: tokens[name] for name in (*prior.reads, *prior.predicts) if name in tokens}
        frames = config.frames or prior.spec.frames
        sampling = sampling_for(prior, priors, config.sampling, given)
        seed = config.seed if prior.predicts_frames else config.seed + 1 + priors.index(prior)
        part = sample_video(prior, start, frames, sampling, seed=seed, samples=ids, on_tokens=bar.advance)
        tokens |= {name: with_given_steps(prior.spec, name, found, tokens) for name, found in part.tokens.items()}
        nats = part.nats | nats  # a stream that an earlier prior sampled keeps its own
        forwards, sampled = forwards + part.forwards, sampled + part.tokens_sampled
    return Samples(tokens, nats, forwards, sampled)


def generation_summary(samples: Samples, seconds: float) -> dict[str, Any]:
    return {
        "samples": len(next(iter(samples.tokens.values()))),
        "tokens_sampled": samples.tokens_sampled,
        "tokens_per_second": round(samples.tokens_sampled / seconds, 1),
        "tokens_per_forward": round(samples.tokens_per_forward, 2),
        "seconds": round(seconds, 1),
    }
