"""Scores of generated clips, S samples of each of N conditions, beside N true clips: of any system, from its pixels.

`own` are the frames that were generated: given frames and an end frame, which are as in the true clip, are not scored,
except by the temporal features and the motion of whole clips.
"""

from __future__ import annotations

import copy

import numpy as np

from tokenreel.metrics.bootstrap import bootstrap
from tokenreel.metrics.distances import relative_distance
from tokenreel.metrics.diversity import feature_diversity, pixel_diversity
from tokenreel.metrics.motion import motion
from tokenreel.metrics.random_features import frame_features, temporal_features
from tokenreel.metrics.reconstruction import ReconstructionScores, mean_image

ALL = slice(None)


def set_scores(true: np.ndarray, samples: np.ndarray, own: slice = ALL) -> dict[str, float]:
    """Distances of uint8 `samples` [N, S, T, H, W, 3] from `true` [N, T, H, W, 3], motion and diversity.

    `frame_distance` and `temporal_distance`: means over the S sets of N clips; `temporal_distance_low` and `_high`: its
    95 % interval over conditions; `motion`: relative to the true clips'; `feature_diversity`, and `pixel_diversity` of
    255: between samples of one condition, 0 where there is one. Raises ValueError for other arrays.
    """
    _require(true, samples)
    frames = np.stack([frame_features(clips[:, own]) for clips in (true, *samples.swapaxes(0, 1))], 1)
    clips = np.stack([temporal_features(clips) for clips in (true, *samples.swapaxes(0, 1))], 1)
    temporal = bootstrap(_mean_distance, clips)
    several = samples.shape[1] > 1
    return {
        "frame_distance": _mean_distance(frames),
        "temporal_distance": temporal.value,
        "temporal_distance_low": temporal.low,
        "temporal_distance_high": temporal.high,
        "motion": motion(samples) / motion(true),
        "feature_diversity": float(feature_diversity(clips[:, 1:], clips[:, 0].mean(0)).mean()) if several else 0.0,
        "pixel_diversity": float(pixel_diversity(samples[:, :, own]).mean()) if several else 0.0,
    }


def pair_scores(true: np.ndarray, samples: np.ndarray, own: slice) -> dict[str, float]:
    """Scores of uint8 `samples` [N, S, T, H, W, 3] against the true clip [N, T, H, W, 3] of the same conditions.

    PSNR, SSIM and PSNR on moving pixels as `ReconstructionScores` defines them, over all samples; `best_ssim`: the mean
    over conditions of the largest SSIM of a sample, which grows with S. Raises ValueError for other arrays.
    """
    _require(true, samples)
    mean = mean_image(true)  # a baseline that is not among the scores below
    total, ssim = None, np.empty(samples.shape[:2])
    for clip, sample in np.ndindex(*ssim.shape):
        one = ReconstructionScores(mean)
        one.update(true[clip, own], samples[clip, sample, own])
        if total is None:
            total = copy.deepcopy(one)  # torchmetrics keeps what it has computed, whatever is merged afterwards
        else:
            total.merge(one)
        ssim[clip, sample] = one.compute()["ssim"]
    assert total is not None  # there is at least one sample
    scores = total.compute()
    return {name: scores[name] for name in ("psnr", "psnr_moving", "ssim")} | {"best_ssim": float(ssim.max(1).mean())}


def _mean_distance(features: np.ndarray) -> float:
    """Features [N, 1 + S, (T,) D] of true clips and of S sets of generated ones."""
    return float(np.mean([relative_distance(features[:, 0], features[:, s]) for s in range(1, features.shape[1])]))


def _require(true: np.ndarray, samples: np.ndarray) -> None:
    if samples.ndim != 6 or samples.shape[:1] + samples.shape[2:] != true.shape or not samples.size:
        raise ValueError(f"samples (shape {samples.shape}) must be [N, S, T, H, W, 3], with true clips {true.shape}")
