"""DVD-GANs as small as they can be: 8 x 8 pixels, five generated frames."""

from __future__ import annotations

from typing import Any

from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import build_generator
from tokenreel.decoders.generators.dvd_gan.adversary import DVDGANAdversary
from tokenreel.decoders.generators.dvd_gan.generator import DVDGAN

CLASSES = ("arm", "ball", "cup")
GIVEN = {"class_conditional": False, "given_frames": 2, "given_multipliers": [2, 3]}
SMALL: dict[str, Any] = {"type": "dvd-gan", "width": 1, "multipliers": [7, 5], "noise": 11, "embedding": 3}
ADVERSARY: dict[str, Any] = {"width": 1, "multipliers": [3, 5], "frames": 2}


def small_generator(frames: int = 5, side: int = 8, **settings: Any) -> DVDGAN:
    section = {**SMALL, **settings}
    classes = CLASSES if section.get("class_conditional", True) else ()
    generator = build_generator(section, frames, Framing(side, side), classes)
    assert isinstance(generator, DVDGAN)
    return generator


def small_adversary(generator: DVDGAN, **settings: Any) -> DVDGANAdversary:
    adversary = generator.new_adversary({**ADVERSARY, **settings})
    assert isinstance(adversary, DVDGANAdversary)
    return adversary
