"""The contents of a Tabletop picture as figures that move rigidly: objects, the two links of the arm, its gripper.

A figure gives the signed distance of points to its outline in each frame, and how its points move from one frame to the
next; drawing and optical flow both follow from these. Lengths in units of the picture's shorter side, arrays float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from tokenreel.data.tabletop.motion import Motion
from tokenreel.data.tabletop.scene import Colour, Scene

STEEL, DARK, JOINT, FINGER = (92, 98, 108), (58, 62, 70), (170, 60, 44), (36, 38, 44)


@dataclass(frozen=True)
class Figure(ABC):
    """A shape of one colour. `centre` [T, 2]; `reach` is the largest distance of its outline from the centre."""

    centre: np.ndarray
    colour: Colour

    @property
    @abstractmethod
    def reach(self) -> np.ndarray | float: ...

    @abstractmethod
    def distance(self, frames: slice, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance, negative inside, of points x, y (broadcast against [T, 1, 1]) in these frames."""

    def displacement(self, frames: slice, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Displacement of the figure's points x, y from each of these frames to the next."""
        step = _columns(self.centre[frames.start + 1 : frames.stop + 1] - self.centre[frames])
        return step[0], step[1]


@dataclass(frozen=True)
class Disc(Figure):
    radius: float

    @property
    def reach(self) -> float:
        return self.radius

    def distance(self, frames: slice, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        cx, cy = _columns(self.centre[frames])
        dx, dy = x - cx, y - cy
        return np.sqrt(dx * dx + dy * dy) - np.float32(self.radius)


@dataclass(frozen=True)
class Box(Figure):
    """An axis-aligned square with rounded corners."""

    half: float  # half of its side
    corner: float  # radius of its corners

    @property
    def reach(self) -> float:
        return 1.4143 * self.half

    def distance(self, frames: slice, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        cx, cy = _columns(self.centre[frames])
        core = np.float32(self.half - self.corner)
        dx, dy = np.abs(x - cx) - core, np.abs(y - cy) - core
        inside = np.minimum(np.maximum(dx, dy), 0)
        dx, dy = np.maximum(dx, 0), np.maximum(dy, 0)
        return np.sqrt(dx * dx + dy * dy) + inside - np.float32(self.corner)


@dataclass(frozen=True)
class Link(Figure):
    """A bar with round ends of constant length; `along` [T, 2] is its unit vector."""

    along: np.ndarray
    length: float
    half_width: float

    @property
    def reach(self) -> float:
        return self.length / 2 + self.half_width

    def _local(self, frames: slice, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (cx, cy), (ax, ay) = _columns(self.centre[frames]), _columns(self.along[frames])
        dx, dy = x - cx, y - cy
        return dx * ax + dy * ay, dy * ax - dx * ay

    def distance(self, frames: slice, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = self._local(frames, x, y)
        u = np.maximum(np.abs(u) - np.float32(self.length / 2), 0)
        return np.sqrt(u * u + v * v) - np.float32(self.half_width)

    def displacement(self, frames: slice, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u, v = self._local(frames, x, y)
        after = slice(frames.start + 1, frames.stop + 1)
        (cx, cy), (ax, ay) = _columns(self.centre[after]), _columns(self.along[after])
        return cx + u * ax - v * ay - x, cy + u * ay + v * ax - y


def figures(scene: Scene, motion: Motion) -> list[Figure]:
    """All figures of a clip, back to front: objects, then the arm above them."""
    return [*_objects(scene, motion), *_arm(scene, motion)]


def _objects(scene: Scene, motion: Motion) -> list[Figure]:
    shapes: list[Figure] = []
    for i, kind in enumerate(scene.kinds):
        centre, r = motion.objects[:, i], kind.radius
        if kind.shape == "disc":
            shapes += [Disc(centre, kind.colour, r), Disc(centre, kind.accent, 0.55 * r)]
        else:
            shapes += [Box(centre, kind.colour, 0.95 * r, 0.3 * r), Box(centre, kind.accent, 0.5 * r, 0.2 * r)]
    return shapes


def _arm(scene: Scene, motion: Motion) -> list[Figure]:
    """A two-link arm that stands beyond the far edge; its elbow follows from the tip (inverse kinematics)."""
    width, height = scene.extent
    base = np.array([0.5 * width, -0.45])
    far = np.sqrt(0.25 * width * width + (height + 0.45) * (height + 0.45))
    length = float(0.52 * far)  # of each link: two of them reach a little beyond the furthest corner
    span = motion.tip - base
    square = (span * span)[:, :1] + (span * span)[:, 1:]
    rise = np.sqrt(length * length / square - 0.25)
    elbow = base + 0.5 * span + rise * np.stack([-span[:, 1], span[:, 0]], 1) * -1.0
    upper, fore = (elbow - base) / length, (motion.tip - elbow) / length
    across = np.stack([-fore[:, 1], fore[:, 0]], 1) * (0.030 + 0.035 * motion.opening)[:, None]
    ahead = motion.tip + 0.02 * fore
    return [
        Link((base + elbow) / 2, STEEL, upper, length, 0.075),
        Link((elbow + motion.tip) / 2, DARK, fore, length, 0.050),
        Link((elbow + motion.tip) / 2, STEEL, fore, length, 0.022),
        Disc(elbow, JOINT, 0.070),
        Disc(ahead + across, FINGER, 0.030),
        Disc(ahead - across, FINGER, 0.030),
        Disc(motion.tip, JOINT, 0.045),
    ]


def _columns(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n, 2] -> x and y, float32 [n, 1, 1] each."""
    columns = points.astype(np.float32)[:, :, None, None]
    return columns[:, 0], columns[:, 1]
