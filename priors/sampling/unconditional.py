"""Null codes stand for tracks that are not given; they mean something only where a prior was trained with them.

Refuses to draw with those that never were. Knows nothing of how codes are drawn.
"""

from __future__ import annotations

from collections.abc import Collection

from tokenreel.data.spec import END, END_STEP
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, Tokens


def require_given(prior: Prior, given: Collection[str]) -> None:
    """Raises ConfigError where the prior reads a track that is not among the `given` streams and that it was never
    trained without.
    """
    for track in map(prior.spec.stream, prior.reads):
        absent = track.name not in given and track.name != END_STEP  # which comes with the end frame, or by itself
        if absent and track.null_code is not None and not prior.trained_without_controls:
            raise ConfigError(
                f"the track {track.name!r} is not given, and this prior was never trained without it: give it "
                f"({_flag(track.name)}, --given-tracks), or train with training.drop_controls above 0"
            )


def _flag(track: str) -> str:
    """Of `generate`."""
    return f"--{track}" if track in ("class", END) else f"--track {track}=..."


def require_end_in_windows(prior: Prior, tokens: Tokens, frames: int) -> None:
    """Raises ConfigError where an end frame lies outside of a window of a video of `frames` frames, which is drawn as
    if no end was given, and the prior was never trained so. Rows whose end is a null code have none.
    """
    if prior.trained_without_controls or not {END, END_STEP} <= tokens.keys():
        return
    clip = prior.spec.frames
    # The first step of the last window; a step in it and in the first one is in all between.
    last_window = max(frames - clip, 0) // prior.spec.levels[0].stride
    with_end = tokens[END][:, 0, 0, 0, 0] < prior.spec.stream(END).codes
    for step in tokens[END_STEP][with_end].flatten().unique().tolist():
        if not last_window <= step < prior.spec.stream(END_STEP).codes:
            raise ConfigError(
                f"the end frame, at step {step}, lies outside of some window of {clip} frames in a video of {frames}, "
                f"and this prior was never trained without one: draw at most {clip} frames, or train with "
                "training.drop_controls above 0"
            )
