"""Registries of classes by short name, and how what a user registered reaches the processes that we start."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

from tokenreel.config import TYPE_KEY, from_mapping
from tokenreel.errors import ConfigError, nearest_name, shown

M = TypeVar("M")  # the base class of a registry's members


class Extendable(Protocol):
    """A registry whose additions can be repeated in another process."""

    @property
    def kind(self) -> str: ...

    def registered(self) -> Iterable[tuple[Any, ...]]:
        """The arguments of each call of `register` so far: a name, a class or function, and strings."""

    def register(self, *arguments: Any) -> None: ...


class Registry(Generic[M]):
    """Classes by short name: built-in ones, and those that `register` adds. Built-in ones are imported on first use, so
    that listing them is cheap.

    Each member is a class with `config_class`, a frozen dataclass whose `type` is the short name. `base` is the class,
    as "module:Class", that `register` requires a member to be derived from.
    """

    def __init__(self, kind: str, members: Mapping[str, str], base: str | None = None) -> None:
        self.kind = kind
        self._members: dict[str, str | type[M]] = dict(members)  # "module:Class", for built-in classes only
        self._base = base

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def register(self, name: str, member: type[M]) -> None:
        """Adds a class of your own in this process and those that it starts, so that presets, configurations and saved
        models can name it.

        Registering a class again has no effect. One with the same module and qualified name replaces the earlier one,
        as a notebook cell that runs again defines a new class. Raises ConfigError if another class has the name, if
        `member` is not a subclass of the registry's base, or if its `config_class` is missing or has another `type`.
        """
        base = object if self._base is None else import_object(self._base)
        if not isinstance(member, type) or not issubclass(member, base):
            raise ConfigError(f"register {name!r}: {member!r} is not a subclass of {self._base or 'object'}")
        known, own = self._members.get(name), _path_of(member)
        if known is not None and _path_of(known) != own:
            raise ConfigError(f"register {name!r}: {_path_of(known)} has this name; register {own} under another")
        config: Any = getattr(member, "config_class", None)
        if not (hasattr(config, "__dataclass_params__") and config.__dataclass_params__.frozen):
            raise ConfigError(f"register {name!r}: {own} needs config_class, a frozen dataclass of {TYPE_KEY} {name!r}")
        if (found := getattr(config, TYPE_KEY, None)) != name:
            raise ConfigError(f"register {name!r}: the {TYPE_KEY} in config_class of {own} is {found!r}, not {name!r}")
        self._members[name] = member

    def member(self, name: Any, path: str = "config") -> type[M]:
        """The class of that short name; ConfigError, with the nearest known one, if there is none."""
        if not isinstance(name, str) or name not in self._members:
            raise ConfigError(
                f"{path}.{TYPE_KEY}: no {self.kind} is called {shown(name)}; {nearest_name(str(name), self)}. "
                "If code of your own registers it, import that code first"
            )
        member = self._members[name]
        return import_object(member) if isinstance(member, str) else member

    def config(self, mapping: Any, path: str = "config") -> Any:
        """The configuration dataclass of the member that `mapping` names, filled from it."""
        if not isinstance(mapping, Mapping) or TYPE_KEY not in mapping:
            raise ConfigError(
                f"{path}: expected a mapping with {TYPE_KEY!r}, one of {', '.join(self)}; got {shown(mapping)}"
            )
        member: Any = self.member(mapping[TYPE_KEY], path)
        return from_mapping(member.config_class, mapping, path)

    def registered(self) -> list[tuple[str, type[M]]]:
        return [(name, member) for name, member in self._members.items() if not isinstance(member, str)]


def _path_of(member: str | type[Any]) -> str:
    return member if isinstance(member, str) else f"{member.__module__}:{member.__qualname__}"


def registrations(registries: Iterable[Extendable]) -> dict[str, Any]:
    """What was registered in this process, as plain data for `register_again` in a process that it starts.

    Raises ConfigError where that process could not import a class or function: a lambda, or one of `__main__`.
    """
    calls = [
        [[name, import_path(thing, f"{registry.kind} {name!r}"), *strings] for name, thing, *strings in calls]
        for registry, calls in ((registry, registry.registered()) for registry in registries)
    ]
    return {"calls": calls, "path": sys.path if any(calls) else []}


def register_again(registries: Iterable[Extendable], message: Mapping[str, Any]) -> None:
    """Repeats `registrations` of the process that started this one. Raises ConfigError where an import fails."""
    sys.path.extend(entry for entry in message["path"] if entry not in sys.path)  # last: they hide nothing of ours
    for registry, calls in zip(registries, message["calls"], strict=True):
        for name, path, *strings in calls:
            try:
                thing = import_object(path)
            except (ImportError, AttributeError) as error:
                raise ConfigError(f"{registry.kind} {name!r}: {path} cannot be imported: {error}") from error
            registry.register(name, thing, *strings)


def import_path(thing: Any, what: str) -> str:
    """ "module:name" of a class or function. Raises ConfigError, which begins with `what`, if it is not found there."""
    path = f"{thing.__module__}:{getattr(thing, '__qualname__', thing)}"
    try:
        found = thing.__module__ != "__main__" and import_object(path) is thing
    except (ImportError, AttributeError):
        found = False
    if not found:
        where = path.replace(":", ".")
        raise ConfigError(f"{what}: other processes cannot import {where}: define it at the top of a module of its own")
    return path


def import_object(path: str) -> Any:
    """The object at "module:name"."""
    module, _, name = path.partition(":")
    return attrgetter(name)(importlib.import_module(module))
