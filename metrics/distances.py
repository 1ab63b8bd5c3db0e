"""Distances between true and generated clips in features of random networks: of single frames, and of whole clips.

    distance = frechet_distance(true features, generated features) / trace(covariance of the true features)

0 for the same set; 1 for generated clips that all have the mean of the true features. `random_features` defines the
networks, `frechet` the distance. They are no FID and no FVD, whose networks are trained, and no figures of papers
compare with them. Compare sets of one number of clips (a few hundred), of one length and one size.
"""

from __future__ import annotations

import numpy as np

from tokenreel.metrics.frechet import frechet_distance
from tokenreel.metrics.random_features import frame_features, temporal_features


def frame_distance(true: np.ndarray, generated: np.ndarray) -> float:
    """Of single frames, whatever their order: uint8 [N, T, H, W, 3] and [M, U, H, W, 3]."""
    return relative_distance(frame_features(true), frame_features(generated))


def temporal_distance(true: np.ndarray, generated: np.ndarray) -> float:
    """Of whole clips: uint8 [N, T, H, W, 3] and [M, T, H, W, 3]. Raises ValueError for fewer than 5 frames."""
    return relative_distance(temporal_features(true), temporal_features(generated))


def relative_distance(true: np.ndarray, generated: np.ndarray) -> float:
    """Of features [N, D] of clips, or [N, T, D] of frames, those of clips in rows so that they can be resampled."""
    true, generated = (features.reshape(-1, features.shape[-1]) for features in (true, generated))
    if (true == true[0]).all():
        raise ValueError("true must be two clips or more that differ: distances are relative to their variance")
    return frechet_distance(true, generated) / float(true.var(0, ddof=1).sum())
