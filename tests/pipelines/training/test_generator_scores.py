"""What is scored on held-out clips, and which alarms are raised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.spec import Framing
from tokenreel.metrics.baselines import cross_fade
from tokenreel.pipelines.training.generator_scores import (
    WINDOW,
    DiscriminatorWatch,
    GeneratorScores,
    collapse_alarms,
)

FRAMES, HEIGHT, WIDTH = 7, 11, 13


def _spec(**conditions: bool | int) -> GeneratorSpec:
    return GeneratorSpec(FRAMES, Framing(HEIGHT, WIDTH), 5, **conditions)  # type: ignore[arg-type]


def _clips(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (5, FRAMES, HEIGHT, WIDTH, 3), np.uint8)


def _scores(spec: GeneratorSpec, true: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    scores = GeneratorScores(spec)
    for pair in zip(true, generated, strict=True):
        scores.update(*pair)
    return scores.compute()


def _psnr(true: np.ndarray, other: np.ndarray) -> float:
    """The mean over frames."""
    errors = np.square(true.astype(float) - other).mean((-3, -2, -1))
    return float((10 * np.log10(255**2 / errors)).mean())


@pytest.mark.parametrize("given", [1, 2])
def test_generated_frames_alone_are_scored_beside_the_cross_fade(given: int) -> None:
    true, generated = _clips(), _clips(1)
    generated[:, :given], generated[:, -1] = true[:, :given], true[:, -1]
    scores = _scores(_spec(given_frames=given, end_frame=True), true, generated)
    assert scores["psnr"] == pytest.approx(_psnr(true[:, given:-1], generated[:, given:-1]), rel=1e-4)
    faded = np.stack([cross_fade(clip[given - 1], clip[-1], FRAMES - given + 1) for clip in true])
    assert scores["psnr_cross_fade"] == pytest.approx(_psnr(true[:, given:-1], faded[:, 1:-1]), rel=1e-4)
    true[:, : given - 1], true[:, given:-1] = 0, faded[:, 1:-1]
    assert math.isinf(_scores(_spec(given_frames=given, end_frame=True), true, true)["psnr_cross_fade"])


@pytest.mark.parametrize(("conditions", "frame"), [({"given_frames": 2}, 1), ({"end_frame": True}, -1)])
def test_without_both_ends_the_baseline_repeats_the_nearest_frame(conditions: dict[str, int], frame: int) -> None:
    true = _clips()
    scores = _scores(_spec(**conditions), true, true)
    own = slice(2, None) if frame == 1 else slice(0, -1)
    assert scores["psnr_repetition"] == pytest.approx(_psnr(true[:, own], true[:, [frame]]), rel=1e-4)


def test_motion_and_spread_are_relative_to_those_of_true_clips() -> None:
    true = _clips() // 2
    generated = true.copy()
    generated[:, 1::2] = true[:, 1::2] + 100
    spread = _scores(_spec(), true, true)
    assert spread["spread_ratio"] == spread["motion_ratio"] == 1
    shifted = _scores(_spec(), true, generated)
    assert shifted["spread_ratio"] == pytest.approx(1)
    assert shifted["motion_ratio"] > 1.5
    still = _scores(_spec(), true[:, :1].repeat(FRAMES, 1), generated)
    assert math.isnan(still["motion_ratio"])


def test_parts_of_the_held_out_clips_have_the_same_scores() -> None:
    true, generated, spec = _clips(), _clips(1), _spec(given_frames=1)
    parts = [GeneratorScores(spec) for _ in range(2)]
    for number, pair in enumerate(zip(true, generated, strict=True)):
        parts[number > 1].update(*pair)
    parts[0].merge(parts[1])
    assert parts[0].compute() == pytest.approx(_scores(spec, true, generated), rel=1e-6)


def test_nearly_equal_clips_raise_an_alarm() -> None:
    true = _clips()
    assert not collapse_alarms(_scores(_spec(), true, _clips(1)), 5)
    equal = _scores(_spec(), true, true[:1].repeat(5, 0))
    (alarm,) = collapse_alarms(equal, 5)
    assert alarm.startswith("collapse: 5 generated clips differ from one another by 0 of what true clips do")
    assert not collapse_alarms(_scores(_spec(), true[:1], true[:1]), 1), "one clip differs from none"


def test_discriminators_that_win_raise_an_alarm() -> None:
    watch = DiscriminatorWatch()
    watch.add(1, [0.5] * WINDOW)
    assert watch.share == 0
    watch.add(WINDOW + 1, [0.009] * (WINDOW // 2 - 1))
    assert not watch.alarms
    watch.add(WINDOW + WINDOW // 2, [0.009])
    assert watch.share == 0.5
    assert "below 0.01 in 50% of the last 100 steps" in watch.alarms[0]
    watch.add(WINDOW + WINDOW // 2 + 1, [0.5] * WINDOW)
    assert watch.share == 0
    early = DiscriminatorWatch()
    early.add(1, [0.0] * 7)
    assert early.share == 1
    assert not early.alarms, "a run has hardly begun"


def test_the_watch_does_not_depend_on_how_steps_are_grouped() -> None:
    losses = np.random.default_rng(0).uniform(0, 0.02, 2 * WINDOW + 7).tolist()
    at_once, one_by_one = DiscriminatorWatch(), DiscriminatorWatch()
    at_once.add(1, losses)
    for step, loss in enumerate(losses, 1):
        one_by_one.add(step, [loss])
    for name, value in at_once.state_dict().items():
        assert torch.equal(value, one_by_one.state_dict()[name]), name
