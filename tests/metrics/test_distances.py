"""The distances order damaged clips as they must, and are the same on every machine."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional

from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.metrics.distances import frame_distance, relative_distance, temporal_distance
from tokenreel.metrics.random_features import MIN_FRAMES, frame_features, temporal_features, weights_fingerprint

CLIPS, FRAMES = 97, 13


@cache
def clips(half: int) -> np.ndarray:
    config = TabletopConfig(height=32, width=32, frames=FRAMES)
    return np.stack([tabletop_clip(config, half * CLIPS + index).frames for index in range(CLIPS)])


def blurred(video: np.ndarray) -> np.ndarray:
    pictures = torch.from_numpy(video).movedim(-1, 2).flatten(0, 1).float()
    mean = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), "replicate"), 3, 1)
    return mean.round().byte().unflatten(0, video.shape[:2]).movedim(2, -1).numpy()


@cache
def damaged() -> dict[str, np.ndarray]:
    """The second half of the clips, damaged."""
    other, rng = clips(1), np.random.default_rng(3)
    middle, flat = FRAMES // 2, rng.permuted(np.tile(np.arange(FRAMES), (CLIPS, 1)), axis=1)
    return {
        "blurred": blurred(other),
        "noisy": np.clip(other + rng.normal(0, 16, other.shape), 0, 255).astype(np.uint8),
        "still": np.repeat(other[:, middle : middle + 1], FRAMES, 1),
        "shuffled": np.take_along_axis(other, flat[..., None, None, None], 1),
        "half speed": np.repeat(other, 2, 1)[:, :FRAMES],
        "few": np.repeat(other[:5], 20, 0)[:CLIPS],
    }


@cache
def distances() -> dict[str, tuple[float, float]]:
    """(frame distance, temporal distance) of the damaged clips, and of intact ones, from the first half."""
    true = frame_features(clips(0)), temporal_features(clips(0))
    return {
        name: (relative_distance(true[0], frame_features(video)), relative_distance(true[1], temporal_features(video)))
        for name, video in {"intact": clips(1), **damaged()}.items()
    }


@pytest.mark.parametrize("name", ["blurred", "noisy", "few"])
def test_both_notice_bad_pictures_and_few_different_clips(name: str) -> None:
    for found, intact in zip(distances()[name], distances()["intact"], strict=True):
        assert found > 2.5 * intact


def test_only_the_temporal_distance_notices_the_order_of_frames() -> None:
    found, intact = distances()["shuffled"], distances()["intact"]
    assert found[0] == pytest.approx(intact[0])
    assert found[1] > 30 * intact[1]


@pytest.mark.parametrize("name", ["still", "half speed"])
def test_the_temporal_distance_notices_wrong_motion_more_than_the_frame_wise_one(name: str) -> None:
    found, intact = distances()[name], distances()["intact"]
    assert found[0] < 4 * intact[0]
    assert found[1] > 5 * intact[1]


def test_the_functions_of_clips_are_those_of_features() -> None:
    true, other = clips(0)[:7], clips(1)[:5]
    assert frame_distance(true, other) == relative_distance(frame_features(true), frame_features(other))
    assert temporal_distance(true, other) == relative_distance(temporal_features(true), temporal_features(other))
    for distance in (frame_distance, temporal_distance):
        assert distance(true, true[::-1]) == pytest.approx(0, abs=1e-6)


def test_they_are_the_same_on_every_machine() -> None:
    """Golden numbers: another weight, or another order of layers, would make figures of two releases incomparable."""
    assert weights_fingerprint() == "b8ad6ca9bb12cfd45c25d9d41f65c2bdb4f0962e8e06d58544f5c95188f36fee"
    features = frame_features(clips(0)[:2]), temporal_features(clips(0)[:2])
    assert [float(values.mean()) for values in features] == pytest.approx([0.131994, 0.0716122], rel=1e-4)
    assert distances()["intact"] == pytest.approx((0.0251578, 0.0497581), rel=1e-3)


def test_identical_clips_with_the_mean_of_the_true_features_are_at_distance_one() -> None:
    true = np.random.default_rng(5).normal(3, 2, (41, 7))
    assert relative_distance(true, np.repeat(true.mean(0, keepdims=True), 41, 0)) == pytest.approx(1)
    with pytest.raises(ValueError, match="two clips or more that differ"):
        relative_distance(true[:1].repeat(5, 0), true)


def test_features_do_not_depend_on_the_size_of_flat_pictures_nor_on_other_clips() -> None:
    video = clips(0)[:35]  # more than a batch
    large = video.repeat(2, axis=2).repeat(2, axis=3)
    for features in (frame_features, temporal_features):
        np.testing.assert_allclose(features(large[:3]), features(video)[:3], rtol=1e-4)
        np.testing.assert_allclose(features(video[33:]), features(video)[33:], rtol=1e-4)


def test_other_arrays_and_short_clips_are_rejected() -> None:
    video = clips(0)[:2]
    for other in (video[0], video.astype(np.float32), video[..., :1], video[:0]):
        with pytest.raises(ValueError, match="uint8"):
            frame_features(other)
    with pytest.raises(ValueError, match="at least 5 frames"):
        temporal_features(video[:, : MIN_FRAMES - 1])
    assert temporal_features(video[:, :MIN_FRAMES]).shape == (2, 64)
