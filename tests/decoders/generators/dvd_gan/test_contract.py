"""DVD-GAN fulfils the contract of generators, in all its variants."""

from __future__ import annotations

from typing import Any

import pytest
from tests.decoders.generators.dvd_gan.small_dvd_gan import GIVEN, small_adversary, small_generator

from tokenreel.testing.generators import check_contract

VARIANTS: dict[str, dict[str, Any]] = {
    "classes": {},
    "no classes, the first group doubles": {"class_conditional": False, "first_group": "double"},
    "given frames": {**GIVEN, "frames": 7},
    "given frames, the first group doubles": {**GIVEN, "frames": 7, "first_group": "double"},
    "batch": {"normalisation": "batch"},
    "group": {"normalisation": "group"},
    "layer": {"normalisation": "layer"},
    "instance": {"normalisation": "instance"},
    "none": {"normalisation": "none"},
    "blocks without norm": {"blocks_without_norm": True},
    "no final norm, attention": {"final_norm": False, "attention": {"after_group": 1}},
    "attention with a residual, recomputed": {
        "attention": {"after_group": 2, "residual": True, "scaled": True},
        "recompute_activations": True,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_contract(name: str) -> None:
    generator = small_generator(**VARIANTS[name])
    check_contract(generator, small_adversary(generator))
