"""Tabletop clips: frozen pixels, what a clip depends on, and that its class is recognisable."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tokenreel.data.tabletop.clip import CLASS_ENTROPY_BITS, CLASSES, TabletopConfig, tabletop_clip
from tokenreel.errors import ConfigError, DataError

SMALL = TabletopConfig(height=23, width=31, frames=19, seed=5)
GOLDEN = {  # sha256 of the pixels; Tabletop v1 never changes, so that figures measured on it stay comparable
    "small": "03c85bac96bf75bdec6d6d0ffc28ee72a86ef57b8b9ccafa6f02b7b29752204a",
    "square": "ec792947357b2e6982caa72334e7e196404969dbdc7636ca4f6fa348f9daa256",
}


def _hash(config: TabletopConfig, clips: int) -> str:
    pixels = hashlib.sha256()
    for index in range(clips):
        pixels.update(tabletop_clip(config, index).frames.tobytes())
    return pixels.hexdigest()


def test_version_1_is_frozen() -> None:
    """All machines draw the same bytes, as only exactly rounded arithmetic is used."""
    assert _hash(SMALL, 11) == GOLDEN["small"]
    assert _hash(TabletopConfig(frames=37), 3) == GOLDEN["square"]


def test_a_clip_depends_on_seed_and_index_only() -> None:
    alone = tabletop_clip(SMALL, 7).frames
    backwards = {index: tabletop_clip(SMALL, index).frames for index in (13, 7, 2)}
    assert np.array_equal(alone, backwards[7])
    assert not np.array_equal(alone, backwards[2])
    assert not np.array_equal(alone, tabletop_clip(TabletopConfig(23, 31, 19, seed=6), 7).frames)


def test_a_longer_clip_begins_with_the_shorter_one() -> None:
    for index in range(len(CLASSES)):
        short, long = (tabletop_clip(TabletopConfig(height=17, width=17, frames=n), index) for n in (1, 29))
        middle = tabletop_clip(TabletopConfig(height=17, width=17, frames=11), index)
        assert np.array_equal(long.frames[:11], middle.frames)
        assert np.array_equal(long.frames[:1], short.frames)
        assert long.contacts[: len(middle.contacts)] == middle.contacts
        assert long.choices[: len(middle.choices)] == middle.choices


def test_clips_of_a_seed_share_their_tray() -> None:
    """The corners, which nothing reaches, are the same in all frames of a seed and differ between seeds."""
    corners = [tabletop_clip(SMALL, index).frames[:, -2:, :2] for index in range(5)]
    assert all(np.array_equal(corner[frame], corners[0][0]) for corner in corners for frame in range(SMALL.frames))
    assert not np.array_equal(corners[0], tabletop_clip(TabletopConfig(23, 31, 19, seed=6), 0).frames[:, -2:, :2])


def test_choice_entropy_counts_future_choices() -> None:
    clip = tabletop_clip(SMALL, 0)
    assert [choice.frame for choice in clip.choices] == [0, 6, 12, 18][: len(clip.choices)]
    assert clip.choice_entropy_bits(0) == pytest.approx(sum(np.log2(choice.options) for choice in clip.choices))
    assert clip.choice_entropy_bits(6) == pytest.approx(clip.choice_entropy_bits(0) - clip.choices[0].entropy_bits)
    assert clip.choice_entropy_bits(SMALL.frames) == 0


def test_classes_can_be_distinguished_by_motion() -> None:
    """The nearest class mean of five statistics of tip and objects is correct far more often than one in eight."""
    config = TabletopConfig(height=11, width=11, frames=31)
    clips = [tabletop_clip(config, index) for index in range(400)]
    features = np.array([_movement(clip.motion.tip, clip.motion.objects, clip.motion.opening) for clip in clips])
    features /= features.std(0)
    classes = np.array([clip.class_index for clip in clips])
    means = np.stack([features[:200][classes[:200] == number].mean(0) for number in range(len(CLASSES))])
    guessed = np.square(features[200:, None] - means).sum(-1).argmin(1)
    assert (guessed == classes[200:]).mean() > 0.6
    assert 2**CLASS_ENTROPY_BITS == len(CLASSES) == len(set(classes))


def _movement(tip: np.ndarray, objects: np.ndarray, opening: np.ndarray) -> list[float]:
    steps, arm = np.diff(tip, axis=0), tip[:-1] - 0.5
    turning = float((arm[:, 0] * steps[:, 1] - arm[:, 1] * steps[:, 0]).sum())
    return [*(objects[-1] - objects[0]).sum(0), np.abs(steps[:, 0]).sum(), opening.mean(), turning]


@pytest.mark.parametrize(
    "wrong",
    [{"height": 7}, {"width": 513}, {"frames": 0}, {"objects": 5}, {"stroke": 1}, {"seed": -1}, {"frame_rate": 0.0}],
)
def test_invalid_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TabletopConfig(**wrong)  # type: ignore[arg-type]


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(DataError, match="index"):
        tabletop_clip(SMALL, -1)
