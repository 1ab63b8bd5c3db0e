"""A second, slow implementation of LVT's prior, from the paper (arXiv 2006.10704, sections 3.2 and 4.4).

It takes the weights of a `SubscaleTransformer` by name and shares no code with it: dense convolutions of one-hot
tokens, locations by their coordinates, biases looked up pair by pair, all in float64. Like the prior and unlike the
published code, its encoder reads given tokens in every slice and adds position embeddings as the decoder does, and left
of a row's first location lies the last one of the row before.

B rows, t h w the clip's grid, q codebooks, K codebook size, P locations of a slice, D width.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreel.priors.subscale.config import SubscaleTransformerConfig

Weights = dict[str, Tensor]


def reference_log_prob(
    config: SubscaleTransformerConfig, weights: Weights, indices: Tensor, given: Tensor, size: int
) -> Tensor:
    """Log-probabilities [B, t, h, w, q], float64, of every token, given or not; both [B, t, h, w, q], K = `size`."""
    weights = {name: weight.double() for name, weight in weights.items()}
    result = torch.full(indices.shape, torch.nan, dtype=torch.float64)
    visible = given.clone()
    (st, sh, sw), q = config.subscale, indices.shape[-1]
    for index, (a, b, c) in enumerate(itertools.product(range(st), range(sh), range(sw))):
        own = indices[:, a::st, b::sh, c::sw]
        encoded = _encode(config, _part(weights, "encoder."), _one_hot(indices, size) * visible[..., None], index)
        hidden = _decode(config, _part(weights, "decoder."), _vectors(weights, own), encoded)
        log_probs = [_channel(weights, hidden, own.flatten(1, 3), k, size) for k in range(q)]
        result[:, a::st, b::sh, c::sw] = torch.stack(log_probs, -1).view(own.shape)
        visible[:, a::st, b::sh, c::sw] = True
    return result


def _encode(config: SubscaleTransformerConfig, weights: Weights, video: Tensor, index: int) -> Tensor:
    """One-hot video [B, t, h, w, q, K], zero where not visible -> [B, D, t', h', w'] for slice `index`."""
    size, codebooks, kernel = video.shape[-1], video.shape[-2], config.kernel
    kernels = weights["table.weight"].view(*kernel, codebooks, size, -1).permute(5, 3, 4, 0, 1, 2).flatten(1, 2)
    video = video.permute(0, 4, 5, 1, 2, 3).flatten(1, 2)  # [B, q * K, t, h, w]
    video = F.pad(video, [size // 2 for size in reversed(kernel) for _ in range(2)])
    a, b, c = list(itertools.product(*map(range, config.subscale)))[index]
    x = F.conv3d(video[:, :, a:, b:, c:], kernels, weights["bias"], stride=config.subscale)
    x = x + weights["slice.weight"][index].view(-1, 1, 1, 1)
    x = torch.einsum("bethw,de->bdthw", x, weights["project_in.weight"])
    x = x + _positions(x)
    for i in range(config.depth):
        x = _block(config, _part(weights, f"blocks.{i}."), x, masked=False)
    return x


def _decode(config: SubscaleTransformerConfig, weights: Weights, x: Tensor, encoded: Tensor) -> Tensor:
    """Vectors of the slice's tokens [B, e, t', h', w'] and the encoder's output -> [B, P, D]."""
    kernels = weights["convolution.weight"].permute(1, 2, 0).unflatten(-1, (3, 3, 3)).clone()
    kernels[:, :, 2, 2, 1:] = 0  # the location itself, and what is right of it
    wrapped = torch.zeros_like(x)
    wrapped[..., 0] = F.pad(x.flatten(2), (1, 0))[..., :-1].view_as(x)[..., 0]
    x = F.conv3d(F.pad(x, (1, 1, 2, 0, 2, 0)), kernels, weights["convolution.bias"])
    x = x + torch.einsum("bethw,de->bdthw", wrapped, kernels[:, :, 2, 2, 0])
    x = x + _positions(x) + torch.einsum("bcthw,dc->bdthw", encoded, weights["context.weight"])
    for i in range(config.depth):
        x = _block(config, _part(weights, f"blocks.{i}."), x, masked=True)
    return x.flatten(2).transpose(1, 2)


def _vectors(weights: Weights, indices: Tensor) -> Tensor:
    """Tokens of a slice [B, t', h', w', q] -> [B, e, t', h', w']: the sum of embeddings over the codebooks."""
    names = ("token_embedding.codebooks.{}.weight", "outputs.codebooks.{}.softmax.linear.weight")
    tied = names[0].format(0) not in weights
    name = names[tied]  # tied: those of the softmax, scaled up as in Vaswani et al. 2017, section 3.4
    vectors = torch.stack([weights[name.format(k)][indices[..., k]] for k in range(indices.shape[-1])]).sum(0)
    vectors = vectors * vectors.shape[-1] ** 0.5 if tied else vectors
    return vectors.permute(0, 4, 1, 2, 3)


def _channel(weights: Weights, hidden: Tensor, indices: Tensor, k: int, size: int) -> Tensor:
    """Log-probabilities [B, P] of the tokens of codebook k: an MLP on [y ; one-hot tokens of the codebooks before]."""
    part = _part(weights, f"outputs.codebooks.{k}.")
    x = torch.cat([_norm(_part(weights, "outputs.norm."), hidden), _one_hot(indices[..., :k], size).flatten(2)], -1)
    layer = torch.cat([part["hidden.weight"], part["earlier.weight"].T] if k else [part["hidden.weight"]], 1)
    x = (x @ layer.T + part["hidden.bias"]).clamp(min=0)
    if "project_out.weight" in part:
        x = x @ part["project_out.weight"].T + part["project_out.bias"]
    logits = x @ part["softmax.linear.weight"].T + part.get("softmax.linear.bias", torch.zeros(size).double())
    return logits.log_softmax(-1).gather(-1, indices[..., k : k + 1])[..., 0]


def _block(config: SubscaleTransformerConfig, weights: Weights, x: Tensor, masked: bool) -> Tensor:
    """[B, D, t', h', w'] -> the same shape."""
    shape, x = x.shape[2:], x.flatten(2).transpose(1, 2)
    x = x + _attention(config, _part(weights, "attention."), x, tuple(shape), masked)
    hidden = _norm(_part(weights, "norm."), x) @ weights["fc1.weight"].T + weights["fc1.bias"]
    x = x + hidden.clamp(min=0) @ weights["fc2.weight"].T + weights["fc2.bias"]
    return x.transpose(1, 2).unflatten(2, shape)


def _attention(
    config: SubscaleTransformerConfig, weights: Weights, x: Tensor, shape: tuple[int, ...], masked: bool
) -> Tensor:
    """Section 4.4: W_m of the values V_m x_k, weighted by softmax(score + bias), summed over the heads m."""
    x = _norm(_part(weights, "norm."), x)
    width, inner = config.head_width, config.heads * config.head_width
    parts = weights["project.weight"].split(inner)
    total = torch.zeros_like(x)
    for m in range(config.heads):
        head = slice(m * width, (m + 1) * width)
        scores = torch.zeros(len(x), x.shape[1], x.shape[1], dtype=x.dtype)
        if config.attention == "query-key":
            scores += (x @ parts[0][head].T) @ (x @ parts[1][head].T).transpose(1, 2) / math.sqrt(width)
        elif config.attention == "key":
            scores += ((x @ parts[0][head].T) @ weights["learned_query"][m] / math.sqrt(width))[:, None, :]
        scores += _pair_biases(weights, m, shape)
        if masked:
            locations = torch.arange(x.shape[1])
            scores[:, locations > locations[:, None]] = -math.inf  # a key after its query
        total += scores.softmax(-1) @ (x @ parts[-1][head].T) @ weights["out.weight"][:, head].T
    return total


def _pair_biases(weights: Weights, head: int, shape: tuple[int, ...]) -> Tensor:
    """[P, P] of one head: for each query and key, one number from each axis' table, by the distance between them."""
    tables = [weights[f"relative.tables.{axis}"][head].tolist() for axis in range(3)]
    locations = list(itertools.product(*map(range, shape)))
    rows = [
        [sum(tables[i][query[i] - key[i] + shape[i] - 1] for i in range(3)) for key in locations] for query in locations
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _positions(x: Tensor) -> Tensor:
    """Sines, then cosines, of the coordinates, in a third of the channels for each axis; like x [B, C, t', h', w']."""
    waves = x.shape[1] // 6
    signal = torch.zeros(x.shape[1:], dtype=x.dtype)
    for location in itertools.product(*map(range, x.shape[2:])):
        for axis, wave in itertools.product(range(3), range(waves)):
            angle = location[axis] / 1e4 ** (wave / waves)
            channel = axis * 2 * waves + wave
            signal[(channel, *location)], signal[(channel + waves, *location)] = math.sin(angle), math.cos(angle)
    return signal


def _norm(weights: Weights, x: Tensor) -> Tensor:
    """Layer norm over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights["weight"] + weights["bias"]


def _one_hot(indices: Tensor, size: int) -> Tensor:
    return F.one_hot(indices, size).double()


def _part(weights: Weights, prefix: str) -> Weights:
    """The weights whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
