"""One or several priors that draw a clip together: each predicts levels of codes, and reads those drawn before it.

Knows what is given of a clip, no cache and no pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.pipelines.progress import Progress
from tokenreel.priors.base import Prior
from tokenreel.priors.choice import SamplingConfig
from tokenreel.priors.sampling import Samples, sample_video


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
    """The saved priors in the order in which they draw, coarse first.

    Raises ConfigError where one reads a level that none before it predicts, or a level has no prior.
    """
    waiting = [Prior.from_pretrained(path, revision=revision).eval().to(device) for path in paths]
    levels = {level.name for level in waiting[0].spec.levels}
    ready, known = list[Prior](), set[str]()
    while waiting:
        able = next((prior for prior in waiting if levels & set(prior.reads) <= known), None)
        if able is None:
            missing = sorted(levels & set(waiting[0].reads) - known)
            raise ConfigError(f"--prior: the prior of {waiting[0].predicts} reads {missing}: give its prior as well")
        if known & set(able.predicts):
            raise ConfigError(
                f"--prior: two priors predict {sorted(known & set(able.predicts))}: give one for each level"
            )
        waiting.remove(able)
        ready.append(able)
        known |= set(able.predicts)
    if levels - known:
        raise ConfigError(f"--prior: no prior predicts {sorted(levels - known)}: give one for each level")
    return ready


def check_drawing(priors: Sequence[Prior], drawing: Drawing) -> None:
    """Raises ConfigError for numbers of given frames, or of frames in all, that these priors cannot draw."""
    spec = priors[0].spec
    if not 0 <= drawing.prime <= spec.frames:
        raise ConfigError(f"--prime {drawing.prime} must be between 0 and the clip's {spec.frames} frames")
    if spec.time == "window":
        priors[0].given_frames(drawing.prime)  # only so many were encoded without those after them
        if drawing.frames not in (None, spec.frames):
            raise ConfigError(
                f"--frames {drawing.frames} must be {spec.frames}, or left out: this tokenizer codes whole clips"
            )


def given_codes(priors: Sequence[Prior], tokens: Mapping[str, np.ndarray], frames: int) -> dict[str, Tensor]:
    """What the priors are given of `tokens`, int64 by stream: the code steps of the first `frames` frames, or, of a
    `window` tokenizer, the tracks of these frames.
    """
    spec = priors[0].spec
    if spec.time == "window":
        whole = {name for prior in priors for name in prior.reads if spec.stream(name).role == "track"}
        return {name: torch.from_numpy(tokens[name].astype(np.int64)) for name in whole}
    steps = {name: spec.steps_of_frames(frames, spec.stream(name)) for prior in priors for name in prior.predicts}
    return {name: torch.from_numpy(tokens[name][:, :count].astype(np.int64)) for name, count in steps.items()}


def draw(priors: Sequence[Prior], given: Mapping[str, Tensor], drawing: Drawing) -> Samples:
    """Samples 0 .. num - 1, each continuing its row of `given`, in batches: all streams that are given or predicted."""
    parts = list(_batches(priors, given, drawing))
    rows = [len(next(iter(part.tokens.values()))) for part in parts]
    return Samples(
        {name: torch.cat([part.tokens[name] for part in parts]) for name in parts[0].tokens},
        {name: torch.cat([part.nats[name] for part in parts]) for name in parts[0].nats},
        sum(part.forwards * count for part, count in zip(parts, rows, strict=True)) / sum(rows),
        sum(part.codes_drawn for part in parts),
    )


def _batches(priors: Sequence[Prior], given: Mapping[str, Tensor], drawing: Drawing) -> Iterator[Samples]:
    with Progress(drawing.num, "sample", "video") as bar:
        for first in range(0, drawing.num, drawing.batch):
            ids = torch.arange(first, min(first + drawing.batch, drawing.num))
            yield _draw_levels(priors, {name: codes[ids] for name, codes in given.items()}, drawing, ids)
            bar.advance(len(ids))


def _draw_levels(priors: Sequence[Prior], given: Mapping[str, Tensor], drawing: Drawing, ids: Tensor) -> Samples:
    """The same samples by one prior after the other; random numbers belong to streams, so all use the same seed."""
    tokens, nats, forwards, drawn = dict(given), dict[str, Tensor](), 0.0, 0
    for prior in priors:
        begun = {name: tokens[name] for name in (*prior.reads, *prior.predicts) if name in tokens}
        frames = drawing.frames or prior.spec.frames
        part = sample_video(prior, begun, frames, drawing.sampling, seed=drawing.seed, samples=ids)
        tokens |= {name: with_given_steps(prior.spec, name, codes, tokens) for name, codes in part.tokens.items()}
        nats |= part.nats
        forwards, drawn = forwards + part.forwards, drawn + part.codes_drawn
    return Samples(tokens, nats, forwards, drawn)


def with_given_steps(spec: TokenSpec, name: str, codes: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
    """Of a `window` tokenizer's level no prior draws the first steps: they are those of the given frames alone."""
    track = spec.given_track(spec.stream(name))
    if track is None:
        return codes
    given = tokens[track.name].to(codes)
    return torch.cat([given, codes[:, given.shape[1] :]], 1)
