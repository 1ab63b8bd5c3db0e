"""A small inbetweening generator and its adversary."""

from __future__ import annotations

from typing import Any

import torch

from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import build_generator
from tokenreel.decoders.generators.inbetweening.adversary import InbetweeningAdversary
from tokenreel.decoders.generators.inbetweening.generator import Inbetweening

FRAMING = Framing(8, 24)
SMALL = {"type": "inbetweening", "noise": 7, "latent": 5, "widths": [3, 5, 7], "blocks": 6, "init": "torch"}


def small_generator(frames: int = 16, **config: Any) -> Inbetweening:
    torch.manual_seed(0)
    generator = build_generator({**SMALL, **config}, frames, FRAMING)
    assert isinstance(generator, Inbetweening)
    return generator


def small_adversary(generator: Inbetweening, **config: Any) -> InbetweeningAdversary:
    adversary = generator.new_adversary({"widths": [3, 5, 7], "init": "torch", "time_kernels": 3, **config})
    assert isinstance(adversary, InbetweeningAdversary)
    return adversary
