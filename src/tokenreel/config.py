"""Configuration: mappings <-> frozen dataclasses, strictly.

A configuration is data. It names members of a registry (`tokenreel.registry`) and never carries an import path, so
loading one runs no code that this process has not imported already.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import yaml

from tokenreel.errors import MAX_SHOWN, ConfigError, nearest_name, shown

BASE_KEY = "base"  # the key of a preset that names the preset it modifies
MAX_TEXT_BYTES = 16 << 20
TYPE_KEY = "type"  # the key that names the member of a registry or union that a mapping configures


class Config(Protocol):
    """A frozen dataclass; `type` identifies it in a registry or a union."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


C = TypeVar("C", bound=Config)


def from_mapping(cls: type[C], mapping: Any, path: str = "config") -> C:
    """Builds the dataclass `cls` from plain data (YAML, JSON), nested to any depth.

    `path` is the key in the file, for messages. Raises ConfigError on an unknown key (naming the nearest known
    one), a missing key, or a value of another type; an integer is accepted as a float, nothing else is converted.
    A field annotated `Annotated[..., REGISTRY]` accepts the configuration of any member of that registry.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{path}: expected a mapping for {cls.__name__}, got {shown(mapping)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values = {key: value for key, value in mapping.items() if key != TYPE_KEY or TYPE_KEY in fields}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{path}.{str(key)[:MAX_SHOWN]}: unknown key; {nearest_name(str(key), fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{path}.{name}: missing; {cls.__name__} requires it")
    hints = typing.get_type_hints(cls, include_extras=True)
    converted = {key: _convert(hints[key], value, f"{path}.{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except ValueError as error:  # what the dataclass checks in its own __post_init__, in the names of its fields
        raise ConfigError(f"{path}: {error}") from error


def to_mapping(config: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`: plain data with lists for tuples, and `type` where the dataclass carries one."""
    data = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}
    return {TYPE_KEY: config.type, **data} if hasattr(config, TYPE_KEY) else data


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        (registry,) = hint.__metadata__
        return registry.config(value, path)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, path)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{path}: {shown(value)} is not allowed; {nearest_name(str(value), map(str, arguments))}")
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, path)
    if origin is tuple:
        return _convert_tuple(arguments, value, path)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping, got {shown(value)}")
        return {key: _convert(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and (hint is bool or not isinstance(value, bool))):
        return value
    raise ConfigError(f"{path}: expected {hint.__name__}, got {type(value).__name__} ({shown(value)})")


def _convert_tuple(arguments: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{path}: expected a list, got {shown(value)}")
    hints = [arguments[0]] * len(value) if len(arguments) == 2 and arguments[1] is Ellipsis else list(arguments)
    if len(hints) != len(value):
        raise ConfigError(f"{path}: expected {len(hints)} values, got {len(value)} ({shown(value)})")
    return tuple(_convert(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))


def _convert_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return _convert(members[0], value, path)
    by_type: dict[str, type[Any]] = {
        getattr(member, TYPE_KEY): member
        for member in members
        if isinstance(member, type) and dataclasses.is_dataclass(member) and hasattr(member, TYPE_KEY)
    }
    if not by_type:
        return _convert_first(members, value, path)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected a mapping with a {TYPE_KEY!r}, got {shown(value)}")
    name = value.get(TYPE_KEY)
    if not isinstance(name, str) or name not in by_type:
        raise ConfigError(f"{path}.{TYPE_KEY}: {shown(name)} is not known; {nearest_name(str(name), by_type)}")
    return from_mapping(by_type[name], value, path)


def _convert_first(members: tuple[Any, ...], value: Any, path: str) -> Any:
    for member in members:
        try:
            return _convert(member, value, path)
        except ConfigError:
            continue
    raise ConfigError(f"{path}: expected one of {', '.join(m.__name__ for m in members)}, got {shown(value)}")


def canonical_json(document: Any) -> bytes:
    """The bytes of a JSON document that are hashed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256_json(document: Any) -> str:
    return hashlib.sha256(canonical_json(document)).hexdigest()


def read_small_text(path: Path) -> str:
    """The UTF-8 text of a file that a person or this package wrote.

    Raises OSError, and ValueError for other bytes and for more than MAX_TEXT_BYTES, as a sparse file may have.
    """
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"it has more than {MAX_TEXT_BYTES:,} bytes")
    return content.decode()


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain data. Raises ConfigError if it is missing, is not YAML, or is not a mapping."""
    try:
        text = read_small_text(path)
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"config file {path} is not YAML: {error}") from error
    data = parse_yaml(text, f"config file {path} is not YAML")
    if not isinstance(data, dict):
        raise ConfigError(f"config file {path}: expected a mapping of sections, got {type(data).__name__}")
    return data


class _Loader(yaml.SafeLoader):
    """Plain data only. As in YAML 1.2, 1e-4 is a number; in YAML 1.1, which PyYAML follows, it is a string.

    Aliases are refused: nested ones make gigabytes of a few lines.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(None, None, f"alias *{event.anchor} is not supported", event.start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, complaint: str) -> Any:
    """YAML as plain data. Raises ConfigError, with `complaint` and the line, if the text is not YAML."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{complaint}: {error.problem}{where}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: 2026-99-99, an integer of 5,000 digits
        raise ConfigError(f"{complaint}: {' '.join(str(error).split())[:MAX_SHOWN]}") from error


def preset_names() -> list[str]:
    """The presets that ship with the package, by name."""
    folder = resources.files("tokenreel.pipelines") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """The sections of a shipped preset as plain data; `base: NAME` in it names the preset that it modifies.

    Raises ConfigError, with the nearest name, for an unknown one.
    """
    if name not in preset_names():
        raise ConfigError(f"preset {shown(name)} is not known; {nearest_name(name, preset_names())}")
    with resources.as_file(resources.files("tokenreel.pipelines") / "presets" / f"{name}.yaml") as path:
        preset = load_yaml(path)
    base = preset.pop(BASE_KEY, None)
    return preset if base is None else merge(load_preset(base), preset)


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated recursively with `override`; a mapping with another `type` replaces the old one entirely."""
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        same = (
            isinstance(value, Mapping) and isinstance(old, Mapping) and value.get(TYPE_KEY) in (None, old.get(TYPE_KEY))
        )
        merged[key] = merge(old, value) if same else value  # type: ignore[arg-type]
    return merged
