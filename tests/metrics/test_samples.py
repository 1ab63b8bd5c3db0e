"""Diversity and the scores of samples, of clips for which they are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.metrics.diversity import feature_diversity, mean_clip, pixel_diversity
from tokenreel.metrics.reconstruction import ReconstructionScores
from tokenreel.metrics.samples import pair_scores, set_scores

SHAPE = (2, 3, 5, 7, 11, 3)  # N, S, T, H, W, C


def noise(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def true_clips(count: int = 13, frames: int = 7) -> np.ndarray:
    config = TabletopConfig(height=23, width=29, frames=frames)
    return np.stack([tabletop_clip(config, index).frames for index in range(count)])


def test_pixel_diversity_is_over_all_pairs_of_samples() -> None:
    samples = noise(3)
    for found, clips in zip(pixel_diversity(samples), samples.astype(float), strict=True):
        assert found == pytest.approx(np.mean([np.abs(a - b).mean() for a, b in combinations(clips, 2)]))
    assert (pixel_diversity(samples[:, [1, 1, 1]]) == 0).all()
    with pytest.raises(ValueError, match="at least two"):
        pixel_diversity(samples[:, :1])


def test_feature_diversity_is_by_angles_from_the_centre() -> None:
    """Two samples at a right angle, a third opposite to the first: cosines of 0, -1 and 0."""
    centre = np.array([5.0, 7.0])
    features = centre + np.array([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]])
    np.testing.assert_allclose(feature_diversity(features, centre), [1 + 1 / 3, 0], atol=1e-12)


def test_the_mean_clip_is_over_samples() -> None:
    samples = noise(5)
    np.testing.assert_allclose(mean_clip(samples), samples.astype(float).mean(1), atol=0.5001)


def test_the_best_of_all_samples_counts_for_ssim_and_all_of_them_for_the_rest() -> None:
    true = true_clips(2)
    samples = np.stack([noise(7, true.shape), true, noise(11, true.shape)], 1)
    samples[:, :, 0] = 0  # a frame that is not scored
    found, own = pair_scores(true, samples, slice(1, None)), ReconstructionScores(true.mean((0, 1)))
    for sample in range(3):
        own.update(true[:, 1:], samples[:, sample, 1:])
    expected = own.compute()
    assert found["best_ssim"] == pytest.approx(1)
    for name in ("psnr_moving", "ssim"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


def test_true_clips_score_as_true_clips() -> None:
    true = true_clips()
    scores = set_scores(true, true[:, None])
    assert scores["frame_distance"] == pytest.approx(0, abs=1e-6)
    assert scores["temporal_distance"] == pytest.approx(0, abs=1e-6)
    assert (scores["motion"], scores["pixel_diversity"], scores["feature_diversity"]) == (1, 0, 0)


def test_distances_are_means_over_sets_of_samples() -> None:
    true, still = true_clips(), np.repeat(true_clips()[:, :1], 7, 1)
    alone, both = (set_scores(true, samples) for samples in (still[:, None], np.stack([still, true], 1)))
    assert alone["temporal_distance_low"] < alone["temporal_distance"] < alone["temporal_distance_high"]
    assert both["temporal_distance"] == pytest.approx(alone["temporal_distance"] / 2, rel=1e-6)
    assert both["motion"] == pytest.approx(0.5)
    assert both["pixel_diversity"] > 0 < both["feature_diversity"]


def test_given_frames_do_not_count_for_the_distance_of_frames() -> None:
    true, samples = true_clips(), true_clips()[:, None].copy()
    samples[:, :, 0] = 0
    assert set_scores(true, samples, slice(1, None))["frame_distance"] == pytest.approx(0, abs=1e-6)
    assert set_scores(true, samples)["frame_distance"] > 1


def test_samples_of_other_clips_are_rejected() -> None:
    true = true_clips(3)
    for other in (true, true[:2, None], true[:, None, :5], true[:, None][:, :0]):
        with pytest.raises(ValueError, match="samples"):
            set_scores(true, other)
