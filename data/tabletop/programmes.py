"""The motion programmes of Tabletop, one for each class: they decide where the next stroke of the tip goes.

A programme sees the state and picks among a few equally likely options at the start of each stroke; nothing else after
the first frame is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenreel.data.tabletop.random_numbers import RandomNumbers
from tokenreel.data.tabletop.scene import CLASSES, TIP_RADIUS, Point, Scene

PUSHES = (0.22, 0.34, 0.46)  # lengths of a push
RINGS = (0.20, 0.28, 0.36)  # radii of a circling tip
GAP = 0.02  # between the tip and the object that it is about to push
_D = 0.7071067811865476  # of the diagonal compass points; a literal, for a cosine's last bit differs between machines
COMPASS: tuple[Point, ...] = ((1, 0), (_D, _D), (0, 1), (-_D, _D), (-1, 0), (-_D, -_D), (0, -1), (_D, -_D))


@dataclass(frozen=True)
class Choice:
    """A choice among `options` equally likely continuations at `frame`, visible in later frames only."""

    frame: int
    name: str
    options: int
    taken: int

    @property
    def entropy_bits(self) -> float:
        return math.log2(self.options)


class Chooser:
    """Makes the random choices of a clip and records them."""

    def __init__(self, rng: RandomNumbers) -> None:
        self._rng = rng
        self.frame = 0
        self.record: list[Choice] = []

    def __call__(self, name: str, options: int) -> int:
        taken = self._rng.below(options)
        self.record.append(Choice(self.frame, name, options, taken))
        return taken


@dataclass(frozen=True)
class Stroke:
    """A movement of the tip from its position to `target`."""

    target: Point
    lowered: bool = True  # a raised tip passes over objects
    glide: float = 0.0  # speed on arrival, as a fraction of the stroke's mean speed; 0: it stops


@dataclass(frozen=True)
class Situation:
    """The state that a programme sees at the start of stroke `number`."""

    scene: Scene
    number: int
    tip: Point
    positions: Sequence[Sequence[float]]  # centre of each object
    last_object: int  # target of the previous stroke


Programme = Callable[[Situation, Chooser], tuple[Stroke, int]]


def _centre(scene: Scene) -> Point:
    return scene.extent[0] / 2, scene.extent[1] / 2


def _behind(now: Situation, index: int, direction: Point) -> Stroke:
    """A stroke over the objects to the point from which object `index` is pushed in `direction`."""
    distance = now.scene.kinds[index].radius + TIP_RADIUS + GAP
    x, y = now.positions[index]
    target = now.scene.on_tray((x - distance * direction[0], y - distance * direction[1]), TIP_RADIUS)
    return Stroke(target, lowered=False)


def _push(direction: Point) -> Programme:
    """A programme that moves behind an object, pushes it in `direction`, and moves behind the next."""

    def next_stroke(now: Situation, choose: Chooser) -> tuple[Stroke, int]:
        if now.number % 2 == 0:
            index = choose("object", len(now.scene.kinds))
            return _behind(now, index, direction), index
        length = PUSHES[choose("length", len(PUSHES))]
        target = now.tip[0] + length * direction[0], now.tip[1] + length * direction[1]
        return Stroke(now.scene.on_tray(target, TIP_RADIUS)), now.last_object

    return next_stroke


def _gather(now: Situation, choose: Chooser) -> tuple[Stroke, int]:
    """Moves to the outer side of an object and pushes it towards the middle of the tray, or past it."""
    x, y = _centre(now.scene)
    if now.number % 2:
        past = (0.0, 0.1, 0.2)[choose("past", 3)]
        direction = _unit(x - now.tip[0], y - now.tip[1])
        return Stroke((x + past * direction[0], y + past * direction[1])), now.last_object
    index = choose("object", len(now.scene.kinds))
    return _behind(now, index, _unit(x - now.positions[index][0], y - now.positions[index][1])), index


def _circle(now: Situation, choose: Chooser) -> tuple[Stroke, int]:
    """Circles clockwise round the middle of the tray, an eighth of a turn each stroke, at a new radius each time."""
    ring = RINGS[choose("ring", len(RINGS))]
    x, y = _centre(now.scene)
    dx, dy = now.tip[0] - x, now.tip[1] - y
    nearest = max(range(len(COMPASS)), key=lambda i: COMPASS[i][0] * dx + COMPASS[i][1] * dy)
    east, south = COMPASS[(nearest + 1) % len(COMPASS)]
    return Stroke((x + ring * east * now.scene.extent[0], y + ring * south * now.scene.extent[1]), glide=0.8), 0


def _sweep(now: Situation, choose: Chooser) -> tuple[Stroke, int]:
    """Sweeps from side to side, to one of five heights each time."""
    width, height = now.scene.extent
    row = 0.2 + 0.15 * choose("row", 5)
    return Stroke((width * (0.18 if now.tip[0] > width / 2 else 0.82), height * row), glide=0.2), 0


def _wander(now: Situation, choose: Chooser) -> tuple[Stroke, int]:
    """Moves to another point of a 4 x 4 grid, at most two columns and two rows away."""
    width, height = now.scene.extent
    column, row = (min(max(int(4 * now.tip[i] / now.scene.extent[i]), 0), 3) for i in (0, 1))
    cells = ((c, r) for r in range(4) for c in range(4))
    near = [(c, r) for c, r in cells if 0 < max(abs(c - column), abs(r - row)) < 3]
    to_column, to_row = near[choose("neighbour", len(near))]
    return Stroke((width * (0.17 + 0.22 * to_column), height * (0.17 + 0.22 * to_row)), glide=0.4), 0


def _unit(x: float, y: float) -> Point:
    length = math.sqrt(x * x + y * y)
    return (x / length, y / length) if length > 1e-6 else (0.0, 1.0)


PROGRAMMES: dict[str, Programme] = dict(
    zip(
        CLASSES,
        (_push((-1, 0)), _push((1, 0)), _push((0, -1)), _push((0, 1)), _circle, _sweep, _gather, _wander),
        strict=True,
    )
)
