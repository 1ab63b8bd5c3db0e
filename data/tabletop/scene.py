"""The first state of a Tabletop clip: its objects and their positions, the tip of the arm, the programme it will run.

Lengths are in units of the picture's shorter side, x to the right and y down from the upper left corner, so that one
scene looks the same in any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenreel.data.tabletop.random_numbers import RandomNumbers
from tokenreel.errors import ConfigError

Point = tuple[float, float]
Colour = tuple[int, int, int]

CLASSES: tuple[str, ...] = (
    "push-left", "push-right", "push-up", "push-down", "circle", "sweep", "gather", "wander",
)  # fmt: skip
RIM = 0.07  # width of the tray's raised edge, which neither objects nor the tip cross
TIP_RADIUS = 0.055  # of the closed gripper, for collisions


CONFIG_FILE = "tabletop.json"  # beside videos written as files: the configuration that makes them again


@dataclass(frozen=True)
class Kind:
    """A kind of object, recognized by its colour and by the pitch of its tone when it is touched."""

    shape: Literal["disc", "box"]
    radius: float  # of the disc used for collisions; a box's corners extend a little beyond it
    colour: Colour
    accent: Colour  # of the smaller figure on top
    pitch: float  # hertz


KINDS: tuple[Kind, ...] = (
    Kind("disc", 0.100, (196, 52, 48), (226, 112, 96), 261.63),
    Kind("box", 0.090, (44, 92, 176), (98, 146, 214), 329.63),
    Kind("disc", 0.090, (52, 140, 72), (112, 184, 116), 392.00),
    Kind("box", 0.085, (226, 168, 44), (242, 204, 112), 493.88),
    Kind("disc", 0.085, (120, 68, 150), (168, 122, 192), 587.33),
    Kind("box", 0.095, (40, 148, 156), (104, 192, 194), 659.26),
)
MAX_OBJECTS = 4  # that many always find free positions, wherever the earlier ones lie


@dataclass(frozen=True)
class TabletopConfig:
    """Size, length, seed and contents of the clips; one seed is one table seen by one camera."""

    height: int = 64  # pixels
    width: int = 64  # pixels
    frames: int = 32
    frame_rate: float = 10.0  # frames per second; only sound and files depend on it
    seed: int = 0
    objects: int = 3
    stroke: int = 6  # frames from one waypoint to the next, hence between choices
    sample_rate: int = 16000  # sound samples per second

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 8 or max(self.height, self.width) > 8 * min(self.height, self.width):
            raise ConfigError(
                f"height x width (={self.height}x{self.width}): both must be at least 8, neither over 8 times the other"
            )
        if self.frames < 1 or self.stroke < 2 or self.sample_rate < 1 or not 0 < self.frame_rate < float("inf"):
            raise ConfigError(f"frames, frame_rate and sample_rate must be positive and stroke at least 2, got {self}")
        if not 1 <= self.objects <= MAX_OBJECTS:
            raise ConfigError(f"objects (={self.objects}) must be 1 to {MAX_OBJECTS}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed (={self.seed}) must be 0 to 2**63 - 1")

    @property
    def extent(self) -> Point:
        """Width and height of the picture in units of its shorter side."""
        side = min(self.height, self.width)
        return self.width / side, self.height / side


@dataclass(frozen=True)
class Scene:
    """All that is sampled before the first frame."""

    class_index: int
    extent: Point
    kinds: tuple[Kind, ...]
    positions: tuple[Point, ...]  # centre of each object
    tip: Point

    def on_tray(self, point: Point, margin: float) -> Point:
        """The nearest point at least `margin` from the rim."""
        (x, y), (width, height), inset = point, self.extent, RIM + margin
        return min(max(x, inset), width - inset), min(max(y, inset), height - inset)


def first_state(config: TabletopConfig, rng: RandomNumbers) -> Scene:
    """A random scene: objects that do not touch, the tip at rest anywhere on the tray, and the programme."""
    class_index = rng.below(len(CLASSES))
    kinds = tuple(KINDS[number] for number in rng.subset(config.objects, range(len(KINDS))))
    positions: list[Point] = []
    for kind in kinds:
        position = _anywhere(config.extent, RIM + kind.radius, rng)
        while any(_near(position, other, kind, kinds[i]) for i, other in enumerate(positions)):
            position = _anywhere(config.extent, RIM + kind.radius, rng)
        positions.append(position)
    tip = _anywhere(config.extent, RIM + TIP_RADIUS, rng)
    return Scene(class_index, config.extent, kinds, tuple(positions), tip)


def _anywhere(extent: Point, inset: float, rng: RandomNumbers) -> Point:
    return rng.uniform(inset, extent[0] - inset), rng.uniform(inset, extent[1] - inset)


def _near(position: Point, other: Point, kind: Kind, other_kind: Kind) -> bool:
    dx, dy, reach = position[0] - other[0], position[1] - other[1], kind.radius + other_kind.radius
    return dx * dx + dy * dy < reach * reach
