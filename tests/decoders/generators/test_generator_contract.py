"""The contract of generators: toy ones fulfil it, and its checks notice broken ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.decoders.generators.toy_generators import ToyAdversaryConfig, ToyGenerator, ToyGeneratorConfig

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import GENERATORS, build_generator
from tokenreel.decoders.generators.conditions import class_weights
from tokenreel.errors import ConfigError
from tokenreel.testing.generators import check_contract

FRAMING = Framing(6, 11)
VARIANTS = {
    "noise": (ToyGeneratorConfig(), ()),
    "classes": (ToyGeneratorConfig(), ("arm", "ball", "cup")),
    "given frames": (ToyGeneratorConfig(given_frames=2), ()),
    "start and end, grey": (ToyGeneratorConfig(given_frames=1, end_frame=True, channels=1), ()),
}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS._members, "toy", ToyGenerator)
    torch.manual_seed(0)


def _toy_generator(config: ToyGeneratorConfig, classes: tuple[str, ...] = ()) -> ToyGenerator:
    generator = build_generator(dataclasses.asdict(config), 5, FRAMING, classes)
    assert isinstance(generator, ToyGenerator)
    return generator


@pytest.mark.parametrize("name", VARIANTS)
def test_toy_generators_fulfil_the_contract(name: str) -> None:
    generator = _toy_generator(*VARIANTS[name])
    check_contract(generator, generator.new_adversary(dataclasses.asdict(ToyAdversaryConfig())))


@pytest.mark.parametrize(
    ("fault", "message"),
    [("batch statistics", "depends on the others of its batch"), ("class ignored", "the class does not change")],
)
def test_broken_generators_are_noticed(fault: str, message: str) -> None:
    generator = _toy_generator(ToyGeneratorConfig(fault=fault), ("arm", "ball", "cup"))
    with pytest.raises(AssertionError, match=message):
        check_contract(generator, generator.new_adversary({}))


def test_a_spec_must_leave_frames_to_generate() -> None:
    with pytest.raises(ConfigError, match="must leave at least one"):
        GeneratorSpec(3, FRAMING, 7, given_frames=2, end_frame=True)


def test_specs_survive_json() -> None:
    spec = GeneratorSpec(5, FRAMING, 7, given_frames=2, end_frame=True, classes=("arm", "ball"), channels=1)
    assert GeneratorSpec.from_json(spec.to_json()) == spec


def test_classes_by_name_and_index() -> None:
    spec = GeneratorSpec(5, FRAMING, 7, classes=("arm", "ball"))
    assert class_weights([1, 0], spec).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ConfigError, match="did you mean 'ball'"):
        spec.class_index("bal")
    with pytest.raises(ConfigError, match="class index 2 must be between 0 and 1"):
        class_weights([2], spec)
