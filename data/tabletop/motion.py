"""Simulates a Tabletop clip: moves the tip along the strokes of a programme and lets it push the objects.

Contacts are quasi-static: nothing slides, overlaps are resolved at each of a few steps per frame, objects stay on
the tray. Only + - * / and sqrt on float64 are used, all correctly rounded, so every machine gets the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokenreel.data.tabletop.programmes import PROGRAMMES, Choice, Chooser, Situation, Stroke
from tokenreel.data.tabletop.random_numbers import RandomNumbers
from tokenreel.data.tabletop.scene import CLASSES, TIP_RADIUS, Point, Scene, TabletopConfig

STEPS = 6  # of contact per frame; in a square picture the tip then moves less than its radius in each
PASSES = 3  # over all overlaps in a step; a row of n objects takes about n passes


@dataclass(frozen=True)
class Contact:
    """The tip touches an object that it did not touch in the frame before."""

    frame: int
    object: int


@dataclass(frozen=True)
class Motion:
    """The state of the arm and the objects in each frame."""

    tip: np.ndarray  # float64 [T, 2], x and y
    opening: np.ndarray  # float64 [T], of the gripper: 0 closed and lowered, 1 open and raised
    objects: np.ndarray  # float64 [T, n, 2]
    choices: tuple[Choice, ...]
    contacts: tuple[Contact, ...]


def simulate(config: TabletopConfig, scene: Scene, rng: RandomNumbers) -> Motion:
    """The motion of the scene's programme. A longer clip begins with the frames of a shorter one."""
    table, choose = _Table(scene), Chooser(rng)
    programme = PROGRAMMES[CLASSES[scene.class_index]]
    while len(table.tips) < config.frames:
        choose.frame = len(table.tips) - 1
        number = choose.frame // config.stroke
        stroke, table.aim = programme(Situation(scene, number, table.tip, table.positions, table.aim), choose)
        table.run(stroke, config.stroke)
    return table.motion(config.frames, choose.record)


class _Table:
    """The state between frames and the record of all frames so far."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.tip, self.aim = scene, scene.tip, 0
        self.positions = [list(position) for position in scene.positions]
        self.speed: Point = (0.0, 0.0)  # of the tip, per stroke
        self.opening = 1.0
        self.touched: set[int] = set()
        self.tips, self.openings, self.contacts = [scene.tip], [1.0], list[Contact]()
        self.layouts = [[list(position) for position in scene.positions]]

    def run(self, stroke: Stroke, frames: int) -> None:
        """Adds the frames of one stroke."""
        start, first_speed, from_opening = self.tip, self.speed, self.opening
        chord = stroke.target[0] - start[0], stroke.target[1] - start[1]
        self.speed = stroke.glide * chord[0], stroke.glide * chord[1]
        for frame in range(1, frames + 1):
            touched: set[int] = set()
            for step in range(STEPS * (frame - 1) + 1, STEPS * frame + 1):
                u = step / (STEPS * frames)
                self.tip = self.scene.on_tray(_hermite(start, stroke.target, first_speed, self.speed, u), TIP_RADIUS)
                if stroke.lowered:
                    touched |= self._push()
            self.opening = _ease(from_opening, 0.0 if stroke.lowered else 1.0, min(2.0 * frame / frames, 1.0))
            self._record(touched)

    def _record(self, touched: set[int]) -> None:
        self.contacts += [Contact(len(self.tips), index) for index in sorted(touched - self.touched)]
        self.touched = touched
        self.tips.append(self.tip)
        self.openings.append(self.opening)
        self.layouts.append([list(position) for position in self.positions])

    def _push(self) -> set[int]:
        """Resolves overlaps and returns the objects that the tip touches."""
        radii, touched = [kind.radius for kind in self.scene.kinds], set[int]()
        for _ in range(PASSES):
            for i, position in enumerate(self.positions):
                if _separate(self.tip, position, TIP_RADIUS + radii[i], 1.0):
                    touched.add(i)
            if not touched:
                break
            for i, position in enumerate(self.positions):
                for j in range(i):
                    _separate(position, self.positions[j], radii[i] + radii[j], 0.5)
            for i, position in enumerate(self.positions):
                position[:] = self.scene.on_tray((position[0], position[1]), radii[i])
        return touched

    def motion(self, frames: int, choices: list[Choice]) -> Motion:
        return Motion(
            np.array(self.tips[:frames]),
            np.array(self.openings[:frames]),
            np.array(self.layouts[:frames]),
            tuple(choices),
            tuple(contact for contact in self.contacts if contact.frame < frames),
        )


def _separate(fixed: Point | list[float], moved: list[float], reach: float, fraction: float) -> bool:
    """Moves two centres apart to the distance `reach`, the second by `fraction` of the gap, the first by the rest.

    Returns whether they were nearer than that.
    """
    dx, dy = moved[0] - fixed[0], moved[1] - fixed[1]
    square = dx * dx + dy * dy
    if square >= reach * reach:
        return False
    distance = math.sqrt(square)
    nx, ny = (dx / distance, dy / distance) if distance > 1e-9 else (0.0, 1.0)
    gap = reach - distance
    moved[0] += fraction * gap * nx
    moved[1] += fraction * gap * ny
    if fraction < 1.0 and isinstance(fixed, list):
        fixed[0] -= (1.0 - fraction) * gap * nx
        fixed[1] -= (1.0 - fraction) * gap * ny
    return True


def _hermite(a: Point, b: Point, speed_a: Point, speed_b: Point, u: float) -> Point:
    """The cubic from a to b with those speeds at its ends."""
    v = 1.0 - u
    wa, wb, wsa, wsb = v * v * (1.0 + 2.0 * u), u * u * (1.0 + 2.0 * v), u * v * v, -u * u * v
    x, y = (wa * a[i] + wb * b[i] + wsa * speed_a[i] + wsb * speed_b[i] for i in (0, 1))
    return x, y


def _ease(start: float, end: float, u: float) -> float:
    return start + (end - start) * u * u * (3.0 - 2.0 * u)
