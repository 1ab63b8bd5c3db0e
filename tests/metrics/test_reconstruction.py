"""Scores with known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tokenreel.metrics.reconstruction import ReconstructionScores, mean_image, moving_pixels

SHAPE = (5, 23, 29, 3)  # T, H, W, C


def random_clip(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 200, SHAPE, dtype=np.uint8)


def test_psnr_of_a_constant_error():
    """10 levels off everywhere: 20 log10(255 / 10) dB, for one clip or several at once."""
    clip = random_clip(3)
    scores = ReconstructionScores(clip.mean(0))
    scores.update(clip, clip + 10)
    scores.update(np.stack([clip, clip]), np.stack([clip + 10, clip - 10]))
    result = scores.compute()
    assert result["psnr"] == pytest.approx(20 * math.log10(25.5), abs=1e-4)
    assert result["mse"] == pytest.approx((10 / 255) ** 2)


def test_psnr_is_the_mean_over_frames_and_mse_over_pixels():
    clip = np.full(SHAPE, 100, np.uint8)
    off = clip.copy()
    off[:] += np.array([1, 2, 4, 8, 16], np.uint8)[:, None, None, None]
    scores = ReconstructionScores(clip[0].astype(float))
    scores.update(clip, off)
    result = scores.compute()
    assert result["psnr"] == pytest.approx(20 * math.log10(255) - 20 * math.log10(2) * 2, abs=1e-4)
    assert result["mse"] == pytest.approx((1 + 4 + 16 + 64 + 256) / 5 / 255**2)


def test_ssim_is_one_only_for_the_same_video():
    clip = random_clip(5)
    same, other = ReconstructionScores(clip.mean(0)), ReconstructionScores(clip.mean(0))
    same.update(clip, clip)
    other.update(clip, random_clip(7))
    assert same.compute()["ssim"] == pytest.approx(1.0)
    assert other.compute()["ssim"] < 0.2


def test_gain_over_the_mean_image_counts_moving_pixels_only():
    """A still scene with one moving square: errors elsewhere do not count, and the baseline errs where it moves."""
    clip = np.full(SHAPE, 50, np.uint8)
    for frame in range(5):
        clip[frame, 3:6, frame : frame + 2] = 150
    background = np.full(SHAPE[1:], 50.0)
    reconstruction = clip.copy()
    reconstruction[:, 10:] = 0  # a large error where nothing moves
    reconstruction[:, 3:6, :6] += 5
    scores = ReconstructionScores(background)
    scores.update(clip, reconstruction)
    result = scores.compute()
    assert result["moving_fraction"] == pytest.approx(3 * 6 / (23 * 29))
    assert result["psnr_moving"] == pytest.approx(20 * math.log10(51))
    baseline = 10 * math.log10(255**2 / (100**2 * 2 / 6))  # two of six columns hold the square at any time
    assert result["psnr_moving_mean_image"] == pytest.approx(baseline)
    assert result["gain_over_mean_image"] == pytest.approx(20 * math.log10(51) - baseline)


def test_small_flicker_is_not_motion():
    clip = np.full(SHAPE, 50, np.uint8)
    clip[2] += 16
    assert not moving_pixels(torch.from_numpy(clip)).any()
    clip[3, 7, 11, 1] = 67
    assert moving_pixels(torch.from_numpy(clip)).nonzero().tolist() == [[7, 11]]


def test_mean_image_is_over_all_frames_of_all_clips():
    clips = [random_clip(1)[:2], random_clip(2)]
    np.testing.assert_allclose(mean_image(iter(clips)), np.concatenate(clips).mean(0))
    with pytest.raises(ValueError, match="empty"):
        mean_image([])


def test_other_types_and_shapes_are_rejected():
    clip = random_clip(3)
    scores = ReconstructionScores(clip.mean(0))
    for other in (clip[:4], clip.astype(np.float32)):
        with pytest.raises(ValueError, match="uint8 of the same shape"):
            scores.update(clip, other)


def test_parts_of_uneven_size_give_what_all_clips_give():
    clips, others = [random_clip(seed) for seed in range(7)], [random_clip(seed) for seed in range(10, 17)]
    clips[2] = np.repeat(clips[2][:1], len(clips[2]), 0)  # nothing moves
    whole, *parts = (ReconstructionScores(clips[0].mean(0)) for _ in range(4))
    for number, (clip, other) in enumerate(zip(clips, others, strict=True)):
        for scores in (whole, parts[0 if number < 5 else 1]):  # the last part has no clip
            scores.update(clip, other)
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].compute() == pytest.approx(whole.compute(), rel=1e-6)
