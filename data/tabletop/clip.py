"""Tabletop: robot-pushing clips drawn by code, in the shape of BAIR, with the ground truth of each.

A fixed camera looks at a tray; a two-link arm runs a motion programme (the clip's class) and pushes coloured objects.
After the first state the only randomness is a few choices among equally likely options at known frames, so the
entropy of a clip's future is counted, not estimated. Tabletop v1 is frozen: tests hold hashes of its pixels.
`pipelines/commands/tabletop.py` writes it to files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokenreel.data.tabletop.drawing import draw
from tokenreel.data.tabletop.figures import Figure, figures
from tokenreel.data.tabletop.flow import flow_and_occlusion
from tokenreel.data.tabletop.motion import Contact, Motion, simulate
from tokenreel.data.tabletop.programmes import Choice
from tokenreel.data.tabletop.random_numbers import RandomNumbers
from tokenreel.data.tabletop.scene import CLASSES, Scene, TabletopConfig, first_state
from tokenreel.data.tabletop.sound import sound_track
from tokenreel.data.tabletop.tray import tray
from tokenreel.errors import DataError

__all__ = ["CLASSES", "CLASS_ENTROPY_BITS", "Choice", "Contact", "TabletopClip", "TabletopConfig", "tabletop_clip"]

CLASS_ENTROPY_BITS = math.log2(len(CLASSES))  # what a prior needs in addition where the class is not given


@dataclass(frozen=True, eq=False)
class TabletopClip:
    """One clip; frames, flow and sound are computed on first access."""

    config: TabletopConfig
    index: int
    scene: Scene
    motion: Motion

    @property
    def class_index(self) -> int:
        return self.scene.class_index

    @property
    def class_name(self) -> str:
        return CLASSES[self.class_index]

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def contacts(self) -> tuple[Contact, ...]:
        return self.motion.contacts

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every random choice after the first state, in order of frames."""
        return self.motion.choices

    def choice_entropy_bits(self, after_frame: int = 0) -> float:
        """Bits of the choices that are visible only in frames after `after_frame`, the last given frame.

        An upper bound on the bits that the tokens of those frames cost a perfect prior that knows the state at
        `after_frame`. A single frame shows neither the class (CLASS_ENTROPY_BITS) nor, within a stroke, its target.
        """
        return sum(choice.entropy_bits for choice in self.choices if choice.frame >= after_frame)

    @property
    def state(self) -> np.ndarray:
        """Tip of the arm, float32 [T, 2]: x as a fraction of the width, y of the height."""
        return (self.motion.tip / np.array(self.config.extent)).astype(np.float32)

    @cached_property
    def frames(self) -> np.ndarray:
        """The rendered frames, uint8 [T, H, W, 3]."""
        return draw(tray(self.config), self._figures, self.config.frames)

    @property
    def flow(self) -> np.ndarray:
        """Optical flow, float32 [T-1, H, W, 2]: displacement (x, y) in pixels from frame t to frame t + 1."""
        return self._flow[0]

    @property
    def occluded(self) -> np.ndarray:
        """bool [T-1, H, W]: whether the point at a pixel of frame t is covered or out of the picture in frame t + 1."""
        return self._flow[1]

    @cached_property
    def sound(self) -> np.ndarray:
        """float32 [samples] in [-1, 1] at `sample_rate`."""
        return sound_track(self.config, self.scene, self.contacts)

    @cached_property
    def _figures(self) -> list[Figure]:
        return figures(self.scene, self.motion)

    @cached_property
    def _flow(self) -> tuple[np.ndarray, np.ndarray]:
        return flow_and_occlusion(self._figures, self.config.frames, self.config.height, self.config.width)


def tabletop_clip(config: TabletopConfig, index: int) -> TabletopClip:
    """Clip `index` of the seed's endless data set; it depends on the config and the index alone.

    Raises DataError for a negative index.
    """
    if not 0 <= index < 2**63:
        raise DataError(f"index (={index}) must be 0 to 2**63 - 1")
    rng = RandomNumbers(config.seed, index)
    scene = first_state(config, rng)
    return TabletopClip(config, index, scene, simulate(config, scene, rng))
