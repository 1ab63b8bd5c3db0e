"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): codes are drawn as if the controls said more.

A second pass of the same prior goes along, for which every track that was given holds its null code; where the two
disagree, the difference is scaled. Knows nothing of how codes are drawn, nor of windows.

B rows, L positions of the order, n codes fed at once, K codes.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from tokenreel.data.spec import END, END_STEP
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, Tokens


def require_given(prior: Prior, given: Collection[str]) -> None:
    """Raises ConfigError where the prior reads a track that is not among the `given` streams and that it was never
    trained without.
    """
    for track in map(prior.spec.stream, prior.reads):
        absent = track.name not in given and track.name != END_STEP  # which comes with the end frame, or by itself
        if absent and track.unconditional_token is not None and not prior.trained_without_controls:
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
    with_end = tokens[END][:, 0, 0, 0, 0] < prior.spec.stream(END).codebook_size
    for step in tokens[END_STEP][with_end].flatten().unique().tolist():
        if not last_window <= step < prior.spec.stream(END_STEP).codebook_size:
            raise ConfigError(
                f"the end frame, at step {step}, lies outside of some window of {clip} frames in a video of {frames}, "
                f"and this prior was never trained without one: draw at most {clip} frames, or train with "
                "training.drop_controls above 0"
            )


def guided(log_probs: Tensor, null: Tensor, guidance: float) -> Tensor:
    """null + guidance * (log_probs - null), normalised; all [..., K] nats, -inf stays where `log_probs` has it."""
    mixed = null + guidance * (log_probs - null)
    return mixed.masked_fill(log_probs == -torch.inf, -torch.inf).log_softmax(-1)


def require_guidable(prior: Prior, guidance: float, given: Collection[str]) -> None:
    """Raises ConfigError where `guidance` is asked for and the `given` streams hold no track with a null code, or null
    codes, for guidance or for what is not given, are needed that the prior was never trained with.
    """
    require_given(prior, given)
    if guidance == 1:
        return
    tracks = {name: prior.spec.stream(name) for name in prior.control_streams}
    if not tracks:
        raise ConfigError(f"guidance (={guidance}) needs a prior with controls, and this one has none: leave it out")
    if not prior.trained_without_controls:
        raise ConfigError(
            f"guidance (={guidance}) needs a prior that was also trained without its controls, and this one never was: "
            "leave it out, or train with training.drop_controls above 0"
        )
    without_null = [name for name in given if name in tracks and tracks[name].unconditional_token is None]
    if without_null or not tracks.keys() & set(given):
        raise ConfigError(
            f"guidance (={guidance}) needs a given track that has a null code; given are {sorted(given)} out of "
            f"{sorted(tracks)}, without null code {without_null}: give one, or leave it out"
        )


def without_controls(prior: Prior, tokens: Tokens, controls: Tensor) -> dict[str, Tensor]:
    """`tokens` with null codes in the tracks that the prior reads, and of those that it predicts at `controls`, bool
    [B or 1, L].
    """
    sizes = prior.codebook_sizes().to(controls.device)  # a null code is K
    streams = {**tokens, **prior.unflatten(torch.where(controls, sizes, prior.flatten(tokens)), tokens)}
    for track in map(prior.spec.stream, prior.reads):
        if track.unconditional_token is not None:
            streams[track.name] = torch.full_like(tokens[track.name], track.unconditional_token)
    return streams


class NullPass:
    """The prior on the same window without its controls, step by step beside the pass with them."""

    def __init__(self, prior: Prior, tokens: Tokens, given: Tensor, indices: Tensor) -> None:
        """`tokens` as `without_controls` makes them; `indices` [B, L + 1] those of the other pass, the last of none."""
        self.prior = prior
        self.null = torch.nn.functional.pad(prior.flatten(tokens), (0, 1))
        self.hidden = torch.nn.functional.pad(given, (0, 1)) & (self.null != indices)
        self.state = prior.start(tokens, given)

    def step(self, indices: Tensor, at: Tensor, count: Tensor) -> Tensor:
        """Feeds codes [B, n] at positions `at` [B, n], as `Prior.step` takes and returns them."""
        return self.prior.step(
            self.state, torch.where(self.hidden.gather(1, at), self.null.gather(1, at), indices), count
        )

    def rewind(self, by: Tensor) -> None:
        """Takes rows back by [B] codes."""
        self.prior.rewind(self.state, self.state.position - by)
