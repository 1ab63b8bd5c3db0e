"""Tabletop's motion: effects of choices, smooth motion of the tip, contacts that separate objects."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tokenreel.data.tabletop.clip import CLASSES, TabletopClip, TabletopConfig, tabletop_clip
from tokenreel.data.tabletop.motion import Motion, simulate
from tokenreel.data.tabletop.random_numbers import RandomNumbers
from tokenreel.data.tabletop.scene import RIM, TIP_RADIUS, Scene

CONFIG = TabletopConfig(height=61, width=61, frames=67, seed=3)


class Script(RandomNumbers):
    """Takes the given options in turn instead of random ones."""

    def __init__(self, taken: tuple[int, ...]) -> None:
        super().__init__(0, 0)
        self._taken = list(taken)

    def below(self, count: int) -> int:
        return self._taken.pop(0) % count


def _scene(name: str) -> Scene:
    clips = (tabletop_clip(CONFIG, index) for index in range(1000))
    return next(clip.scene for clip in clips if clip.class_name == name)


def _clips() -> list[TabletopClip]:
    return [tabletop_clip(CONFIG, index) for index in range(23)]


def _same(one: Motion, other: Motion, frames: int) -> bool:
    return np.array_equal(one.tip[:frames], other.tip[:frames]) and np.array_equal(
        one.objects[:frames], other.objects[:frames]
    )


@pytest.mark.parametrize("name", CLASSES)
def test_a_choice_has_an_effect_only_after_its_frame(name: str) -> None:
    config, scene = TabletopConfig(frames=19), _scene(name)
    first = simulate(config, scene, Script((0, 0, 0, 0)))
    other = simulate(config, scene, Script((0, 1, 0, 0)))
    frame = first.choices[1].frame
    assert frame == 6
    assert _same(first, other, frame + 1)
    assert not _same(first, other, frame + 6)


def test_only_choices_are_random() -> None:
    """From one first state there are exactly as many futures as choices: 2 to the power of the entropy."""
    config, scene = TabletopConfig(frames=13), _scene("sweep")
    futures = {simulate(config, scene, Script(taken)).tip.tobytes(): taken for taken in product(range(5), repeat=2)}
    entropy = sum(choice.entropy_bits for choice in simulate(config, scene, Script((0, 0))).choices)
    assert len(futures) == round(2**entropy) == 25


def test_options_are_taken_equally_often() -> None:
    taken = np.array([clip.choices[0].taken for clip in map(_quick, range(600)) if clip.choices[0].options == 3])
    counts = np.bincount(taken, minlength=3)
    assert np.abs(counts / len(taken) - 1 / 3).max() < 0.08  # over 3 standard deviations of 400 draws


def _quick(index: int) -> TabletopClip:
    return tabletop_clip(TabletopConfig(height=11, width=11, frames=2), index)


def test_the_arm_always_moves_and_never_jumps() -> None:
    """Mean speed of 2 to 8 pixels of 64 per frame; no step above 15, no change of speed above 8 between frames."""
    for clip in _clips():
        steps = np.diff(clip.motion.tip, axis=0) * 64
        speed = np.sqrt(np.square(steps).sum(1))
        assert 2 < speed.mean() < 8
        assert speed.max() < 15
        assert np.abs(np.diff(steps, axis=0)).max() < 8


def test_objects_stay_on_the_tray_and_do_not_overlap() -> None:
    for clip in _clips():
        radii = np.array([kind.radius for kind in clip.scene.kinds])
        positions = clip.motion.objects
        assert (positions >= RIM + radii[:, None] - 1e-9).all()
        assert (positions <= 1 - RIM - radii[:, None] + 1e-9).all()
        for i, j in ((0, 1), (0, 2), (1, 2)):
            gap = np.sqrt(np.square(positions[:, i] - positions[:, j]).sum(-1)) - radii[i] - radii[j]
            assert gap.min() > -0.6 * min(radii[i], radii[j])  # squeezed against the rim they may overlap in part
            assert np.median(gap) >= 0


def test_only_touched_rows_of_objects_move() -> None:
    """Nothing moves while the tip is raised; an object moves only if the tip or another object is next to it."""
    for clip in _clips():
        moved = (np.diff(clip.motion.objects, axis=0) != 0).any(-1)  # [T-1, n]
        raised = (clip.motion.opening[1:] == 1) & (clip.motion.opening[:-1] == 1)
        assert not moved[raised].any()
        for contact in clip.contacts:
            tip, position = clip.motion.tip[contact.frame], clip.motion.objects[contact.frame, contact.object]
            before = clip.motion.tip[contact.frame - 1]
            near = min(np.sqrt(np.square(point - position).sum()) for point in (tip, before, (tip + before) / 2))
            assert near < TIP_RADIUS + clip.scene.kinds[contact.object].radius + 0.12


def test_pushes_have_the_direction_of_the_class() -> None:
    config = TabletopConfig(height=11, width=11, frames=61)
    net = {name: np.zeros(2) for name in CLASSES}
    for index in range(200):
        clip = tabletop_clip(config, index)
        net[clip.class_name] += (clip.motion.objects[-1] - clip.motion.objects[0]).sum(0)
    for name, direction in {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.items():
        way = net[f"push-{name}"]
        assert way @ np.array(direction) > 0.8 * np.sqrt(way @ way) > 1


def test_most_clips_have_contacts() -> None:
    """At least two out of three within 32 frames, as sound and pushing would otherwise be rare."""
    clips = [tabletop_clip(TabletopConfig(height=11, width=11), index) for index in range(100)]
    assert sum(bool(clip.contacts) for clip in clips) > 66
