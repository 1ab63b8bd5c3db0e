from __future__ import annotations

import random
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest

from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.settings import read_assignments, require_section, resolve

FILE = """
tokenizer: {type: frame-vqvae, hidden: 32, quantizer: {type: vq, codebook_size: 512}}
training:
  batch: 8
  steps: 100
  tokenizer: {steps: 200}
  prior: {batch: 4}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def test_later_sources_override_earlier_ones(file: Path) -> None:
    """File < --set < options; the file's section of a stage overrides its shared section, but no later source."""
    assert resolve(None, file, [], {}, "tokenizer")["training"] == {"batch": 8, "steps": 200}
    assert resolve(None, file, [], {}, "prior")["training"] == {"batch": 4, "steps": 100}
    assert resolve(None, file, ["training.steps=3"], {}, "tokenizer")["training"]["steps"] == 3
    flags = {"training.steps": 5, "training.seed": None}
    assert resolve(None, file, ["training.steps=3"], flags, "tokenizer")["training"] == {"batch": 8, "steps": 5}


def test_an_assignment_changes_one_field_only(file: Path) -> None:
    sections = resolve(None, file, ["tokenizer.quantizer.codebook_size=64"], {}, "tokenizer")
    assert sections["tokenizer"] == {
        "type": "frame-vqvae",
        "hidden": 32,
        "quantizer": {"type": "vq", "codebook_size": 64},
    }


def test_a_quantizer_of_another_type_inherits_no_field(file: Path) -> None:
    sections = resolve(None, file, ["tokenizer.quantizer={type: fsq, levels: [8, 5]}"], {}, "tokenizer")
    assert sections["tokenizer"]["quantizer"] == {"type": "fsq", "levels": [8, 5]}


def test_a_misspelt_field_gets_the_nearest_name(file: Path) -> None:
    with pytest.raises(ConfigError, match="'trainig' is not known; did you mean 'training'"):
        resolve(None, file, ["trainig.steps=3"], {}, "prior")
    with pytest.raises(ConfigError, match="preset 'no-such' is not known"):
        resolve("no-such", None, [], {}, "prior")
    with pytest.raises(ConfigError, match="no section 'prior': give --preset NAME"):
        require_section(resolve(None, file, [], {}, "prior"), "prior")


@pytest.mark.parametrize("field", ["training", "training.prior", "training.prior.top"])
def test_training_and_its_parts_are_mappings(field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: expected a mapping, got 3$"):
        resolve("video-vqvae-tabletop-tiny", None, [f"{field}=3"], {}, "prior", "top")


@pytest.mark.parametrize(
    ("assignment", "value"),
    [("prior.depth=2", 2), ("prior.depth=2.5", 2.5), ("prior.depth=null", None), ("prior.depth=[1, 2]", [1, 2])],
)
def test_one_field_is_set_with_a_yaml_value(assignment: str, value: Any) -> None:
    assert read_assignments([assignment]) == {"prior": {"depth": value}}


@pytest.mark.parametrize("assignment", ["prior.depth", "=3", "prior..depth=3", "prior.=3", "prior.depth=[1"])
def test_a_malformed_assignment_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        read_assignments([assignment])


SETTINGS = (
    "tokenizer.quantizer.type=fsq",
    "tokenizer.quantizer.levels=[8, 5]",
    "tokenizer.hidden=64",
    "training={batch: 2, tokenizer: {steps: 7}}",
    "training.seed=3",
)


def test_the_order_of_assignments_does_not_matter(file: Path) -> None:
    """Also if a type comes after its fields, or the section of a stage before the shared one."""
    for count in range(len(SETTINGS) + 1):
        for chosen in combinations(SETTINGS, count):
            results = [resolve(None, file, order, {}, "tokenizer") for order in permutations(chosen)]
            assert all(sections == results[0] for sections in results), chosen
    assert results[0]["tokenizer"] == {
        "type": "frame-vqvae",
        "hidden": 64,
        "quantizer": {"type": "fsq", "levels": [8, 5]},
    }
    assert results[0]["training"] == {"batch": 2, "steps": 7, "seed": 3}


def random_tree(rng: random.Random, depth: int) -> dict[str, Any]:
    keys = rng.sample(["type", "a", "b", "c"], rng.randint(1, 3))
    return {key: random_tree(rng, depth - 1) if depth and rng.random() < 0.6 else rng.randint(0, 9) for key in keys}


def random_assignments(rng: random.Random, tree: dict[str, Any], field: str = "") -> list[str]:
    """Assignments equivalent to `tree`: each mapping as one value or field by field."""
    results = []
    for key, value in tree.items():
        if isinstance(value, dict) and rng.random() < 0.7:
            results += random_assignments(rng, value, f"{field}{key}.")
        else:
            results.append(f"{field}{key}={value}")
    return results


@pytest.mark.parametrize("seed", range(20))
def test_assignments_in_any_order_give_the_same_tree(seed: int) -> None:
    rng = random.Random(seed)
    tree = random_tree(rng, 3)
    assignments = random_assignments(rng, tree)
    for _ in range(20):
        rng.shuffle(assignments)
        assert read_assignments(assignments) == tree


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["a.b=1", "a.b=2"], {"b": 2}),
        (["a={b: 1, c: 3}", "a.b=2"], {"b": 2, "c": 3}),
        (["a.b=2", "a={b: 1, c: 3}"], {"b": 1, "c": 3}),
        (["a={b: 1}", "a={c: 3}"], {"b": 1, "c": 3}),
        (["a={type: x, b: 1}", "a={type: y, c: 3}"], {"type": "y", "c": 3}),
        (["a=null", "a={b: 1}"], {"b": 1}),
        (["a={b: 1}", "a=null"], None),
    ],
)
def test_the_last_of_two_values_for_a_field_counts(assignments: list[str], expected: Any) -> None:
    assert read_assignments(assignments) == {"a": expected}


@pytest.mark.parametrize("pair", [("a=1", "a.b=2"), ("a=null", "a.b.c=2"), ("a={b: [1]}", "a.b.c=2")])
def test_a_field_inside_a_value_is_refused(pair: tuple[str, str]) -> None:
    for first, second in permutations(pair):
        with pytest.raises(ConfigError) as caught:
            read_assignments(["x=1", first, "y=2", second])
        assert all(f"--set {text!r}" in str(caught.value) for text in pair)
