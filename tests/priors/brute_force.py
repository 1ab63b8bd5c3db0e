"""Plain sampling without caches, guided or not: the reference of the sampler."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenreel.counter_rng import uniforms
from tokenreel.priors.base import Prior, Tokens


def one_by_one(
    prior: Prior,
    tokens: Tokens,
    given: Tensor,
    seed: int,
    ids: list[int],
    start: int = 0,
    unconditional: Tokens | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """int64 [B, L]: at each position the whole teacher-forced distribution, inverted in numpy.

    `start` is the frame of the video at which the clip starts; the random numbers are those of the video's steps.
    `unconditional` are the tokens with dropped controls: where a given position holds an unconditional token, it hides
    the other one from the second pass.
    """
    flat, hidden = prior.flatten(tokens), prior.flatten(tokens if unconditional is None else unconditional)
    hides = given & (hidden == prior.codebook_sizes())
    order, streams = prior.order(), prior.spec.streams
    for i in (~given.all(0)).nonzero().flatten().tolist():
        stream, t, h, w, q = order[i].tolist()
        _, height, width, codebooks = streams[stream].shape
        step = t if streams[stream].name == "class" else t + start
        token_id = stream * 2**48 + ((step * height + h) * width + w) * codebooks + q
        number = uniforms(seed, np.array(ids), np.array([token_id]))[:, 0]
        probs = _distribution(prior, tokens, flat, given, i)
        if unconditional is not None:
            unguided = _distribution(prior, unconditional, torch.where(hides, hidden, flat), given, i)
            probs = unguided * (probs / unguided) ** guidance
        cumulative = probs.cumsum(1)
        sampled = (cumulative <= number[:, None] * cumulative[:, -1:]).sum(1)
        flat[:, i] = torch.where(given[:, i], flat[:, i], torch.from_numpy(sampled))
    return flat


def _distribution(prior: Prior, tokens: Tokens, flat: Tensor, given: Tensor, position: int) -> np.ndarray:
    """float64 [B, K] at `position` after the tokens before it in `flat` [B, L]."""
    columns = []
    for k in range(int(prior.codebook_sizes()[position])):
        flat_k = flat.clone()
        flat_k[:, position] = k
        with torch.no_grad():
            log_probs = prior.log_prob({**tokens, **prior.unflatten(flat_k, tokens)}, given)
        columns.append(log_probs[:, position].double().exp())
    return torch.stack(columns, 1).numpy()
