"""Priors of tracks alone: they draw what priors of frames are told, and come before them. Knows nothing of how."""

from __future__ import annotations

from collections.abc import Sequence

from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior


def tracks_drawn_apart(priors: Sequence[Prior]) -> set[str]:
    return {name for prior in priors if not prior.draws_frames for name in prior.predicts}


def require_followed(priors: Sequence[Prior]) -> None:
    """Raises ConfigError unless each track that is drawn apart is drawn once, and known as the same one to a prior of
    frames of as many frames a clip.
    """
    drawn = [(name, prior) for prior in priors if not prior.draws_frames for name in prior.predicts]
    names = [name for name, _ in drawn]
    for name, prior in drawn:
        if names.count(name) > 1:
            raise ConfigError(f"--prior: two priors of tracks alone predict {name!r}: give one")
        followers = [other for other in priors if other.draws_frames and name in other.told_by]
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
