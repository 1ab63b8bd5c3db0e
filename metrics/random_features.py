"""Features of clips from convolutional networks with fixed random weights, for distances between sets of clips.

Weights are normal numbers of the counter-based generator, so they are the same on every machine, and nothing has to be
downloaded. Embeddings by random networks were found to judge generated pictures sensibly, the more so where these are
unlike the pictures of ImageNet (Naeem et al. 2020, arXiv 2002.09797).

Both networks: pixels in [-1, 1], averaged down (or repeated up) to SIZE x SIZE; three convolutions of edge 3 with zero
padding, of 16, 32 and 64 channels, without bias, each followed by ReLU; average pooling over 2 along every axis after
the first two, and the mean over all positions after the third. A weight has mean 0 and variance 2 / (weights of its
output channel). The network of frames is two-dimensional. That of clips is three-dimensional: its input has six
channels, each frame but the last and DIFFERENCE_GAIN times its difference to the next.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.data.pixels import to_model
from tokenreel.decoders.generators.noise import sample_noise

FEATURES = 64
MIN_FRAMES = 5  # of a clip for the temporal features: its four differences are pooled twice
SIZE = 32  # pixels along an edge
CHANNELS = (16, 32, FEATURES)
DIFFERENCE_GAIN = 4.0  # differences are several times smaller than pixels
SEEDS = {2: 20, 3: 30}  # of the first layer, by the number of axes
BATCH = 32  # clips


def frame_features(clips: np.ndarray) -> np.ndarray:
    """uint8 [N, T, H, W, 3] -> float64 [N, T, 64], of each frame by itself. Raises ValueError for other arrays."""
    return _in_batches(
        clips, lambda video: _features(video.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(video), -1))
    )


def temporal_features(clips: np.ndarray) -> np.ndarray:
    """uint8 [N, T, H, W, 3] -> float64 [N, 64], of whole clips. Raises ValueError for other arrays and for clips of
    fewer than MIN_FRAMES frames.
    """
    if clips.ndim == 5 and clips.shape[1] < MIN_FRAMES:
        raise ValueError(f"clips (shape {clips.shape}) must have at least {MIN_FRAMES} frames")
    return _in_batches(
        clips, lambda video: _features(torch.cat([video[:, :, :-1], DIFFERENCE_GAIN * video.diff(dim=2)], 1))
    )


def weights_fingerprint() -> str:
    """sha256 of the weights of both networks, float32 little-endian."""
    digest = hashlib.sha256()
    for channels, axes in ((3, 2), (6, 3)):
        for weight in _weights(channels, axes):
            digest.update(weight.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _in_batches(clips: np.ndarray, features: Callable[[Tensor], Tensor]) -> np.ndarray:
    if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype != np.uint8 or not len(clips):
        raise ValueError(f"clips ({clips.dtype} {clips.shape}) must be uint8 [N, T, H, W, 3] with at least one clip")
    parts = (clips[first : first + BATCH] for first in range(0, len(clips), BATCH))
    return np.concatenate([features(_resized(to_model(np.ascontiguousarray(part)))).double().numpy() for part in parts])


def _resized(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [B, 3, T, SIZE, SIZE]"""
    if video.shape[-2:] == (SIZE, SIZE):
        return video
    return functional.interpolate(video, (video.shape[2], SIZE, SIZE), mode="area")


def _features(pictures: Tensor) -> Tensor:
    """[B, c, (T,) SIZE, SIZE] -> [B, 64]"""
    axes = pictures.ndim - 2
    convolve, pool = {2: (functional.conv2d, functional.avg_pool2d), 3: (functional.conv3d, functional.avg_pool3d)}[
        axes
    ]
    first, *others = _weights(pictures.shape[1], axes)
    maps = convolve(pictures, first, padding=1).relu()
    for weight in others:
        maps = convolve(pool(maps, 2), weight, padding=1).relu()
    return maps.flatten(2).mean(2)


@cache
def _weights(channels: int, axes: int) -> tuple[Tensor, ...]:
    """Of the three layers, [o, i, (3,) 3, 3]: row o of a layer is the noise of sample o."""
    weights = []
    for layer, (inputs, outputs) in enumerate(pairwise((channels, *CHANNELS))):
        shape = (inputs, *(3,) * axes)
        noise = sample_noise(SEEDS[axes] + layer, np.arange(outputs), math.prod(shape))
        weights.append(noise.view(outputs, *shape) * math.sqrt(2 / math.prod(shape)))
    return tuple(weights)
