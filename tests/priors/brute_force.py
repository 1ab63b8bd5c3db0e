"""Plain sampling spelled out, guided too: what the sampler is compared with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenreel.priors.base import Prior, Tokens
from tokenreel.priors.sampling.counter_rng import uniforms


def one_by_one(
    prior: Prior,
    tokens: Tokens,
    given: Tensor,
    seed: int,
    ids: list[int],
    start: int = 0,
    null: Tokens | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """int64 [B, L]: for each position the whole teacher-forced distribution, inverted in numpy.

    `start` is the frame of the video at which the clip starts; the random numbers are those of the video's steps.
    `null` are the tokens with null codes for controls: wherever given ones hold a null code, it hides the other.
    """
    flat, hidden = prior.flatten(tokens), prior.flatten(tokens if null is None else null)
    hides = given & (hidden == prior.codebook_sizes())
    order, streams = prior.order(), prior.spec.streams
    for i in (~given.all(0)).nonzero().flatten().tolist():
        stream, t, h, w, q = order[i].tolist()
        _, height, width, codebooks = streams[stream].shape
        step = t if streams[stream].name == "class" else t + start
        code = stream * 2**48 + ((step * height + h) * width + w) * codebooks + q
        number = uniforms(seed, np.array(ids), np.array([code]))[:, 0]
        probs = _distribution(prior, tokens, flat, given, i)
        if null is not None:
            unguided = _distribution(prior, null, torch.where(hides, hidden, flat), given, i)
            probs = unguided * (probs / unguided) ** guidance
        cumulative = probs.cumsum(1)
        drawn = (cumulative <= number[:, None] * cumulative[:, -1:]).sum(1)
        flat[:, i] = torch.where(given[:, i], flat[:, i], torch.from_numpy(drawn))
    return flat


def _distribution(prior: Prior, tokens: Tokens, flat: Tensor, given: Tensor, position: int) -> np.ndarray:
    """float64 [B, K] at `position` after the codes before it in `flat` [B, L]."""
    columns = []
    for k in range(int(prior.codebook_sizes()[position])):
        flat_k = flat.clone()
        flat_k[:, position] = k
        with torch.no_grad():
            log_probs = prior.log_prob({**tokens, **prior.unflatten(flat_k, tokens)}, given)
        columns.append(log_probs[:, position].double().exp())
    return torch.stack(columns, 1).numpy()
