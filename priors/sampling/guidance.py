"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), and checks of what guidance and controls require.

A second pass of the same prior runs alongside the first, with unconditional tokens in place of the given controls; the
difference of their log-probabilities is scaled.

B rows, L positions of the order, n tokens fed at once, K size of the largest codebook.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from tokenreel.data.spec import END, END_STEP
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, Tokens

MAX_GUIDANCE = 1e30  # beyond it nothing changes, and float32 overflows


def require_guidable(prior: Prior, guidance: float, given: Collection[str]) -> None:
    """Raises ConfigError where a control is neither `given` nor absent in training, and where the prior or the `given`
    streams do not allow `guidance`.
    """
    _require_controls(prior, given)
    if guidance == 1:
        return
    controls = {name: prior.spec.stream(name) for name in prior.control_streams}
    if not controls:
        raise ConfigError(f"guidance (={guidance}) needs a prior with controls, and this one has none: omit it")
    if not prior.trained_without_controls:
        raise ConfigError(
            f"guidance (={guidance}) needs a prior that was also trained without its controls, which this one was not: "
            "omit it, or train with training.drop_controls above 0"
        )
    unguidable = [name for name in given if name in controls and controls[name].unconditional_token is None]
    if unguidable or not controls.keys() & set(given):
        raise ConfigError(
            f"guidance (={guidance}) needs a given control with an unconditional token; given: {sorted(given)}, "
            f"controls: {sorted(controls)}, without unconditional token: {unguidable}: give one, or omit guidance"
        )


def _require_controls(prior: Prior, given: Collection[str]) -> None:
    """Raises ConfigError where the prior reads a control that is not `given`, and was never trained without it."""
    for control in map(prior.spec.stream, prior.reads):
        absent = control.name not in given and control.name != END_STEP  # which has a default
        if absent and control.unconditional_token is not None and not prior.trained_without_controls:
            flag = f"--{control.name}" if control.name in ("class", END) else f"--control {control.name}=..."
            raise ConfigError(
                f"control {control.name!r} is not given, and this prior was never trained without it: give it "
                f"({flag}, --given-controls), or train with training.drop_controls above 0"
            )


def require_end_in_windows(prior: Prior, tokens: Tokens, frames: int) -> None:
    """Raises ConfigError where an end frame is outside of a window of a video of `frames` frames, and the prior was
    never trained without one. Rows whose end frame is unconditional have none.
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
                f"the end frame, at step {step}, is not in every window of {clip} frames of a video of {frames}, "
                f"and this prior was never trained without one: sample at most {clip} frames, or train with "
                "training.drop_controls above 0"
            )


def guided(log_probs: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """unconditional + guidance * (log_probs - unconditional), normalised; all [..., K] nats. -inf in `log_probs` stays
    -inf.
    """
    scale = min(guidance, MAX_GUIDANCE)
    mixed = unconditional + scale * (log_probs - unconditional)
    return mixed.masked_fill(log_probs == -torch.inf, -torch.inf).log_softmax(-1)


def drop_controls(prior: Prior, tokens: Tokens, controls: Tensor) -> dict[str, Tensor]:
    """`tokens` with unconditional tokens in the control streams that the prior reads, and in predicted streams at the
    positions `controls`, bool [B or 1, L].
    """
    sizes = prior.codebook_sizes().to(controls.device)  # an unconditional token is K
    streams = {**tokens, **prior.unflatten(torch.where(controls, sizes, prior.flatten(tokens)), tokens)}
    for control in map(prior.spec.stream, prior.reads):
        if control.unconditional_token is not None:
            streams[control.name] = torch.full_like(tokens[control.name], control.unconditional_token)
    return streams


class UnconditionalPass:
    """The prior on the same window without its controls, step by step alongside the pass with them."""

    def __init__(self, prior: Prior, tokens: Tokens, given: Tensor, indices: Tensor) -> None:
        """`tokens` are those of `drop_controls`; `indices` [B, L + 1] those of the other pass, padded by one column."""
        self.prior = prior
        self.tokens = torch.nn.functional.pad(prior.flatten(tokens), (0, 1))
        self.dropped = torch.nn.functional.pad(given, (0, 1)) & (self.tokens != indices)
        self.state = prior.start(tokens, given)

    def step(self, indices: Tensor, at: Tensor, count: Tensor) -> Tensor:
        """Feeds tokens [B, n] at positions `at` [B, n]; as `Prior.step` otherwise."""
        indices = torch.where(self.dropped.gather(1, at), self.tokens.gather(1, at), indices)
        return self.prior.step(self.state, indices, count)

    def rewind(self, by: Tensor) -> None:
        """Moves rows back by [B] tokens."""
        self.prior.rewind(self.state, self.state.position - by)
