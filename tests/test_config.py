"""The strict loader: round trips, and every mistake named with its place and the nearest known name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tokenreel.config import (
    from_mapping,
    load_preset,
    load_yaml,
    merge,
    parse_yaml,
    preset_names,
    to_mapping,
)
from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class Vq:
    type = "vq"
    codes: int = 512


@dataclass(frozen=True)
class Fsq:
    type = "fsq"
    levels: tuple[int, ...] = (8, 5, 5)


@dataclass(frozen=True)
class Model:
    type = "model"
    width: int
    quantizer: Vq | Fsq = field(default_factory=Vq)
    rate: float | None = None
    mode: Literal["center", "none"] = "center"
    betas: tuple[float, float] = (0.9, 0.99)
    extra: dict[str, Vq] = field(default_factory=dict)
    fused: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width (={self.width}) must be at least 1")


def test_a_round_trip_keeps_nesting_unions_and_tuples() -> None:
    model = Model(7, Fsq((3, 5)), rate=2.5, betas=(0.5, 0.75), extra={"top": Vq(11)})
    assert from_mapping(Model, to_mapping(model)) == model
    assert to_mapping(model)["quantizer"] == {"type": "fsq", "levels": [3, 5]}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"width": 3, "quantiser": {}}, r"config\.quantiser: unknown key; did you mean 'quantizer'"),
        ({}, r"config\.width: missing"),
        ({"width": "3"}, r"config\.width: expected int, got str"),
        ({"width": True}, r"config\.width: expected int, got bool"),
        ({"width": 3, "fused": 1}, r"config\.fused: expected bool"),
        ({"width": 3, "rate": "fast"}, r"config\.rate: expected float"),
        ({"width": 0}, r"config: width \(=0\) must be at least 1"),
        ({"width": 3, "mode": "centre"}, r"config\.mode: 'centre' is not allowed; did you mean 'center'"),
        ({"width": 3, "betas": [0.5]}, r"config\.betas: expected 2 values, got 1"),
        ({"width": 3, "betas": 0.5}, r"config\.betas: expected a list"),
        ({"width": 3, "quantizer": {"type": "fqs"}}, r"config\.quantizer\.type: 'fqs' is not known; did you mean"),
        ({"width": 3, "quantizer": {"type": ["fsq"]}}, r"config\.quantizer\.type: \['fsq'\] is not known"),
        ({"width": 3, "quantizer": {"type": "fsq", "levels": [8, "5"]}}, r"config\.quantizer\.levels\[1\]"),
        ({"width": 3, "extra": {"top": {"code": 3}}}, r"config\.extra\.top\.code: unknown key; did you mean 'codes'"),
        ([1, 2], "expected a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_place(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Model, mapping)


def test_a_whole_number_stands_for_a_float_and_nothing_else_is_converted() -> None:
    assert from_mapping(Model, {"width": 3, "rate": 2}).rate == 2.0
    assert isinstance(from_mapping(Model, {"width": 3, "rate": 2}).rate, float)
    assert from_mapping(Model, {"width": 3, "rate": None}).rate is None


def test_later_settings_lie_over_earlier_ones() -> None:
    base = {"prior": {"type": "gpt", "depth": 4, "width": 8}, "data": {"frames": 16}}
    assert merge(base, {"prior": {"depth": 2}}) == {**base, "prior": {"type": "gpt", "depth": 2, "width": 8}}
    assert merge(base, {"prior": {"type": "maskgit", "depth": 2}})["prior"] == {"type": "maskgit", "depth": 2}


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("3E5", 3e5), ("-1.5e+3", -1500.0), (".5e1", 5.0)])
def test_numbers_with_an_exponent_are_numbers(text: str, value: float) -> None:
    """PyYAML alone takes 1e-4, without a point, for text."""
    assert parse_yaml(text, "rate") == value
    assert parse_yaml("1e-4x", "name") == "1e-4x"


def test_files_that_are_not_sections_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, message in (
        ("[1, 2]", "mapping of sections"),
        ("a: [1", "not YAML"),
        ("!!python/name:os.system", "YAML"),
        ("a: 1\nb: {c: 2\n", "not YAML: expected ',' or '}', but got '<stream end>' in line 3, column 1"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            load_yaml(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not YAML: 'utf-8' codec"):
        load_yaml(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "nothing.yaml")


def test_an_unknown_preset_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lvt-bair-paper'"):
        load_preset("lvt-bair-papper")
    assert all(load_preset(name) for name in preset_names())


def test_aliases_are_refused_where_they_stand() -> None:
    """Ten lines of nested aliases are gigabytes, as soon as a message shows them."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match=r"not YAML: alias \*a0 is not supported in line 2, column 10"):
        parse_yaml("\n".join(lines), "not YAML")


@pytest.mark.parametrize("text", ["[" * 100_000, "2026-99-99", "9" * 5000, "? [a]\n: b"])
def test_yaml_that_python_cannot_hold_is_no_traceback(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^not YAML: "):
        parse_yaml(text, "not YAML")


@pytest.mark.parametrize(
    "mapping",
    ["x" * 10**6, {"x" * 10**6: 1}, {"width": "x" * 10**6}, {"width": 3, "quantizer": {"type": "x" * 10**6}}],
)
def test_a_message_shows_the_start_of_a_long_value(mapping: object) -> None:
    with pytest.raises(ConfigError) as raised:
        from_mapping(Model, mapping)
    assert "xxx" in str(raised.value)
    assert len(str(raised.value)) < 1000
