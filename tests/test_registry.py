from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from tokenreel.errors import ConfigError
from tokenreel.registry import Registry, register_again, registrations


def test_a_registry_knows_its_members_only() -> None:
    registry: Registry[Any] = Registry("tokenizer", {"frame-vqvae": "os:path"})
    with pytest.raises(ConfigError, match="no tokenizer is called 'frame-vqae'; did you mean 'frame-vqvae'"):
        registry.member("frame-vqae")
    with pytest.raises(ConfigError, match="expected a mapping with 'type'"):
        registry.config({"width": 3})
    with pytest.raises(ConfigError, match="no tokenizer is called 'os:system'"):
        registry.config({"type": "os:system"})
    with pytest.raises(ConfigError, match=r"no tokenizer is called \['frame-vqvae'\]"):
        registry.config({"type": ["frame-vqvae"]})


@dataclass(frozen=True)
class OtherConfig:
    type: ClassVar[str] = "other"
    size: int = 3


class Other:
    config_class = OtherConfig


@dataclass
class ThawedConfig:
    type: ClassVar[str] = "mine"


class Thawed:
    config_class = ThawedConfig


class NoConfig:
    """Cannot be a member."""


def test_a_class_is_registered_by_its_name() -> None:
    registry: Registry[Any] = Registry("tokenizer", {"path": "os:path"})
    registry.register("other", Other)
    assert list(registry) == ["path", "other"]
    assert registry.member("other") is Other
    assert registry.config({"type": "other", "size": 5}) == OtherConfig(5)
    registry.register("other", Other)
    again = type("Other", (), {"config_class": OtherConfig, "__module__": __name__})
    registry.register("other", again)  # the same cell of a notebook, run once more
    assert registry.member("other") is again
    with pytest.raises(ConfigError, match=r"no tokenizer is called 'othr'; did you mean 'other'\? .*import that code"):
        registry.member("othr")


@pytest.mark.parametrize(
    ("name", "member", "message"),
    [
        ("path", Other, r"register 'path': os:path has this name; register .*:Other under another"),
        ("mine", Other, r"register 'mine': the type in config_class of .*:Other is 'other', not 'mine'"),
        ("mine", Thawed, r"register 'mine': .*:Thawed needs config_class, a frozen dataclass of type 'mine'"),
        ("mine", NoConfig, r"register 'mine': .*:NoConfig needs config_class, a frozen dataclass of type 'mine'"),
        ("mine", Other(), r"register 'mine': <.*> is not a subclass of object"),
    ],
)
def test_what_cannot_be_a_member_is_refused(name: str, member: Any, message: str) -> None:
    registry: Registry[Any] = Registry("tokenizer", {"path": "os:path"})
    with pytest.raises(ConfigError, match=message):
        registry.register(name, member)
    assert list(registry) == ["path"]


def test_registrations_are_repeated_in_another_process() -> None:
    here, there = [Registry[Any]("tokenizer", {"path": "os:path"}) for _ in range(2)]
    assert registrations([here]) == {"calls": [[]], "path": []}
    here.register("other", Other)
    register_again([there], json.loads(json.dumps(registrations([here]))))
    assert (list(there), there.member("other")) == (["path", "other"], Other)


def test_what_another_process_cannot_import_is_named() -> None:
    here, there = [Registry[Any]("tokenizer", {}) for _ in range(2)]
    here.register("other", type("Local", (), {"config_class": OtherConfig, "__module__": "__main__"}))
    with pytest.raises(ConfigError, match=r"tokenizer 'other': other processes cannot import __main__\.Local"):
        registrations([here])
    for path in ("no_such_module:Other", f"{__name__}:Another"):
        with pytest.raises(ConfigError, match=f"tokenizer 'other': {path} cannot be imported"):
            register_again([there], {"calls": [[["other", path]]], "path": []})
