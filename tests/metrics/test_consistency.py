"""Flicker against its definition, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from tokenreel.metrics.consistency import Flicker


def clips(seed: int, values: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, values, (2, 5, 3, 7, 3), dtype=np.uint8)


def test_it_is_the_mean_change_where_the_true_video_is_static() -> None:
    original, decoded = clips(0, 2), clips(1, 256)
    changes = []
    for n, t, y, x in np.ndindex(2, 4, 3, 7):
        if (original[n, t, y, x] == original[n, t + 1, y, x]).all():
            changes += [abs(int(a) - int(b)) for a, b in zip(decoded[n, t, y, x], decoded[n, t + 1, y, x], strict=True)]
    flicker = Flicker()
    flicker.update(original[0], decoded[0])
    flicker.update(original[1:], decoded[1:])
    assert flicker.compute() == pytest.approx(np.mean(changes))


def test_the_true_video_has_none() -> None:
    original, flicker = clips(0, 2), Flicker()
    flicker.update(original, original)
    assert flicker.compute() == 0


def test_without_static_pixels_it_is_nan() -> None:
    original = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 5, 7, 3), np.uint8)
    flicker = Flicker()
    flicker.update(original, original)
    assert np.isnan(flicker.compute())


def test_clips_of_other_shapes_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"\(5, 3, 7, 3\).*\(4, 3, 7, 3\)"):
        Flicker().update(clips(0, 2)[0], clips(0, 2)[0, 1:])
