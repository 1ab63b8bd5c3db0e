"""DVD-GAN fulfils the contract of generators, with each normalisation and each of its options."""

from __future__ import annotations

from typing import Any

import pytest
from tests.decoders.generators.dvd_gan.small_dvd_gan import GIVEN, small_adversary, small_generator

from tokenreel.testing.generators import check_contract

VARIANTS: dict[str, dict[str, Any]] = {
    "classes": {},
    "given frames": {**GIVEN, "frames": 7},
    "given frames, the first group doubles, group": {
        **GIVEN,
        "frames": 7,
        "first_group": "double",
        "normalisation": "group",
    },
    "no classes, the first group doubles, batch": {
        "class_conditional": False,
        "first_group": "double",
        "normalisation": "batch",
    },
    "attention, layer": {"attention": {"after_group": 1}, "normalisation": "layer"},
    "attention with a residual, instance, recomputed": {
        "attention": {"after_group": 2, "residual": True, "scaled": True},
        "normalisation": "instance",
        "recompute_activations": True,
    },
    "none": {"normalisation": "none"},
    "blocks without norm, no final norm": {"blocks_without_norm": True, "final_norm": False},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_contract(name: str) -> None:
    generator = small_generator(**VARIANTS[name])
    check_contract(generator, small_adversary(generator))
