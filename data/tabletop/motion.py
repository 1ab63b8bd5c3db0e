"""Moves the tip along the strokes of a programme and lets it push the objects: the whole motion of a Tabletop clip.

Contacts are quasi-static: nothing slides on, overlaps are resolved at each of a few steps in a frame, objects stay on
the tray. Only + - * / and sqrt on float64 are used, all exactly rounded, so every machine gets the same bits.
It knows nothing of the arm's links and of pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokenreel.data.tabletop.draws import Draws
from tokenreel.data.tabletop.programmes import PROGRAMMES, Choice, Chooser, Situation, Stroke
from tokenreel.data.tabletop.scene import CLASSES, TIP_RADIUS, Point, Scene, TabletopConfig

STEPS = 6  # of contact for each frame; in a square picture the tip then moves less than its radius in each
PASSES = 3  # over all overlaps in a step; a row of objects settles in about as many passes as it has members


@dataclass(frozen=True)
class Contact:
    """The tip touches an object that it did not touch in the frame before."""

    frame: int
    object: int


@dataclass(frozen=True)
class Motion:
    """Where everything is in each frame."""

    tip: np.ndarray  # float64 [T, 2], x and y
    opening: np.ndarray  # float64 [T], of the gripper: 0 closed and lowered, 1 open and raised
    objects: np.ndarray  # float64 [T, n, 2]
    choices: tuple[Choice, ...]
    contacts: tuple[Contact, ...]


def simulate(config: TabletopConfig, scene: Scene, draws: Draws) -> Motion:
    """Runs the scene's programme. A longer clip begins with the frames of a shorter one."""
    table, choose = _Table(scene), Chooser(draws)
    programme = PROGRAMMES[CLASSES[scene.class_index]]
    while len(table.tips) < config.frames:
        choose.frame = len(table.tips) - 1
        number = choose.frame // config.stroke
        stroke, table.aim = programme(Situation(scene, number, table.tip, table.places, table.aim), choose)
        table.run(stroke, config.stroke)
    return table.motion(config.frames, choose.record)


class _Table:
    """The state between frames and the record of all frames so far."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.tip, self.aim = scene, scene.tip, 0
        self.places = [list(place) for place in scene.places]
        self.speed: Point = (0.0, 0.0)  # of the tip, a stroke
        self.opening = 1.0
        self.touched: set[int] = set()
        self.tips, self.openings, self.contacts = [scene.tip], [1.0], list[Contact]()
        self.layouts = [[list(place) for place in scene.places]]

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
        self.layouts.append([list(place) for place in self.places])

    def _push(self) -> set[int]:
        """Resolves overlaps and says which objects the tip touches."""
        radii, touched = [kind.radius for kind in self.scene.kinds], set[int]()
        for _ in range(PASSES):
            for i, place in enumerate(self.places):
                if _separate(self.tip, place, TIP_RADIUS + radii[i], 1.0):
                    touched.add(i)
            if not touched:
                break
            for i, place in enumerate(self.places):
                for j in range(i):
                    _separate(place, self.places[j], radii[i] + radii[j], 0.5)
            for i, place in enumerate(self.places):
                place[:] = self.scene.on_tray((place[0], place[1]), radii[i])
        return touched

    def motion(self, frames: int, choices: list[Choice]) -> Motion:
        return Motion(
            np.array(self.tips[:frames]),
            np.array(self.openings[:frames]),
            np.array(self.layouts[:frames]),
            tuple(choices),
            tuple(contact for contact in self.contacts if contact.frame < frames),
        )


def _separate(fixed: Point | list[float], moved: list[float], reach: float, share: float) -> bool:
    """Moves the second centre away until the two are `reach` apart; the first takes what `share` leaves of the way."""
    dx, dy = moved[0] - fixed[0], moved[1] - fixed[1]
    square = dx * dx + dy * dy
    if square >= reach * reach:
        return False
    distance = math.sqrt(square)
    nx, ny = (dx / distance, dy / distance) if distance > 1e-9 else (0.0, 1.0)
    gap = reach - distance
    moved[0] += share * gap * nx
    moved[1] += share * gap * ny
    if share < 1.0 and isinstance(fixed, list):
        fixed[0] -= (1.0 - share) * gap * nx
        fixed[1] -= (1.0 - share) * gap * ny
    return True


def _hermite(a: Point, b: Point, speed_a: Point, speed_b: Point, u: float) -> Point:
    """The cubic from a to b with those speeds at its ends."""
    v = 1.0 - u
    wa, wb, wsa, wsb = v * v * (1.0 + 2.0 * u), u * u * (1.0 + 2.0 * v), u * v * v, -u * u * v
    x, y = (wa * a[i] + wb * b[i] + wsa * speed_a[i] + wsb * speed_b[i] for i in (0, 1))
    return x, y


def _ease(start: float, end: float, u: float) -> float:
    return start + (end - start) * u * u * (3.0 - 2.0 * u)
