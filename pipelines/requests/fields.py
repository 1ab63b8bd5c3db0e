"""How a request is declared: a frozen dataclass whose fields carry what the command line needs to know about them.

Imports neither torch nor click: `--help` must be quick, and a request is plain data.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform

from tokenreel.errors import ConfigError, nearest_name

T = TypeVar("T")
_KEY = "option"  # of a field's metadata


@dataclass(frozen=True)
class Option:
    """A field on the command line."""

    flag: str  # as in --num; of a positional argument, its name in capitals
    help: str
    positional: bool = False
    minimum: float | None = None
    above: float | None = None  # a minimum that is itself not allowed
    maximum: float | None = None
    metavar: str | None = None
    separated: bool = False  # a tuple given as one value with commas, "none" if it is empty
    complete: Literal["presets"] | None = None  # the values that a shell offers

    def check_range(self, value: float) -> None:
        """Raises ConfigError for a value out of range."""
        low = self.minimum is not None and not value >= self.minimum  # not: NaN is out of every range
        if low or (self.above is not None and not value > self.above):
            bound = f"at least {self.minimum}" if self.above is None else f"above {self.above}"
            raise ConfigError(f"{self.flag} (={value}) must be {bound}")
        if self.maximum is not None and value > self.maximum:
            raise ConfigError(f"{self.flag} (={value}) must be at most {self.maximum}")


def option(
    flag: str, help: str, *, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING, **form: Any
) -> Any:
    """A field that is the option `flag`; required without a default. `form`: further fields of `Option`."""
    metadata = {_KEY: Option(flag, help, **form)}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def argument(name: str, *, default: Any = dataclasses.MISSING, **form: Any) -> Any:
    """A field that is a positional argument, required without a default; the request's docstring says what it is.
    `form`: further fields of `Option`.
    """
    return dataclasses.field(default=default, metadata={_KEY: Option(name, "", positional=True, **form)})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, argument))
def request(cls: type[T]) -> type[T]:
    """Makes a subclass of `Request` a dataclass."""
    return dataclass(frozen=True, kw_only=True)(cls)


class Request:
    """What a command is asked to do. The docstring of a member is the command's help.

    Raises ConfigError, naming the flag, for a value of another type or out of range. A string stands for a path, with ~
    for the home folder, and a list for a tuple. A string that begins with ~/ is in the home folder too, whatever its
    flag, as places of data and models are strings.
    """

    heading: ClassVar[str] = "Options"  # of the fields that the class declares, in `--help`

    @property
    def verbatim(self) -> str | None:
        """The key of the summary that is printed as it is, in place of the summary; None: the summary is printed."""
        return None

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            value = _checked(getattr(self, field.name), field)
            object.__setattr__(self, field.name, value)


@dataclass(frozen=True)
class RequestField:
    """A field of a request with its type resolved."""

    name: str
    type: Any  # without None
    optional: bool  # whether None is a value
    option: Option
    required: bool
    default: Any

    @property
    def element(self) -> Any:
        """The type of the values of a tuple or mapping."""
        return typing.get_args(self.type)[1 if self.is_mapping else 0]

    @property
    def is_tuple(self) -> bool:
        return typing.get_origin(self.type) is tuple

    @property
    def length(self) -> int | None:
        """The number of values of a tuple that has a fixed one, as tuple[int, int]; None: any, or no tuple."""
        elements = typing.get_args(self.type)
        return len(elements) if self.is_tuple and Ellipsis not in elements else None

    @property
    def is_mapping(self) -> bool:
        return typing.get_origin(self.type) is Mapping

    @property
    def choices(self) -> tuple[str, ...]:
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()


def fields_of(cls: type[Request]) -> Iterator[RequestField]:
    """The fields of a request class, those of its groups first."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # a member is a dataclass
        members = typing.get_args(hints[field.name]) if _is_union(hints[field.name]) else (hints[field.name],)
        (kind,) = (member for member in members if member is not type(None))
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None if required else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield RequestField(field.name, kind, type(None) in members, field.metadata[_KEY], required, default)


def require_defaults(made: Request, names: Container[str], reason: str) -> None:
    """Raises ConfigError, as `reason` says, where one of the fields `names` is not its default."""
    for field in fields_of(type(made)):
        value = getattr(made, field.name)
        if field.name in names and value != field.default:
            text = ", ".join(map(str, value)) if isinstance(value, tuple | Mapping) else value
            raise ConfigError(f"{field.option.flag} (={text}) {reason}: omit it")


def names_of(*groups: type[Request]) -> list[str]:
    """The names of the fields of these groups."""
    return [field.name for group in groups for field in fields_of(group)]


def arguments_of(made: Request) -> list[str]:
    """The arguments with which the command line makes this request; those that are the default are omitted."""
    arguments, flags = list[str](), list[str]()
    for field in fields_of(type(made)):
        value = getattr(made, field.name)
        if field.option.positional:
            arguments += [] if value is None else [str(value)]
        elif value != field.default or field.required:
            flags += _flag(field, value)
    return [*arguments, *flags]


def _flag(field: RequestField, value: Any) -> list[str]:
    flag = field.option.flag
    if field.type is bool:
        return [flag]
    if field.is_mapping:
        return [part for name, element in value.items() for part in (flag, f"{name}={element}")]
    if field.length is not None:
        return [flag, *map(str, value)]
    if field.is_tuple and not field.option.separated:
        return [part for element in value for part in (flag, str(element))]
    return [flag, (",".join(value) or "none") if field.is_tuple else str(value)]


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _checked(value: Any, field: RequestField) -> Any:
    """The value as its field declares it. Raises ConfigError where it cannot be."""
    flag = field.option.flag
    if value is None and field.optional:
        return None
    if field.choices:
        if value not in field.choices:
            raise ConfigError(f"{flag} {value!r} is not known; {nearest_name(str(value), field.choices)}")
        return value
    if field.is_tuple and isinstance(value, tuple | list):
        if field.length not in (None, len(value)):
            raise ConfigError(f"{flag} (={value!r}) must be {field.length} values")
        if field.required and not value:
            raise ConfigError(f"{flag} must be given at least once")
        return tuple(_in_range(_typed(element, field.element, flag), field) for element in value)
    if field.is_mapping and isinstance(value, Mapping):
        return {str(name): _typed(element, field.element, flag) for name, element in value.items()}
    if field.is_tuple or field.is_mapping:
        raise ConfigError(f"{flag} (={value!r}) must be a {'list' if field.is_tuple else 'mapping'}")
    typed = _in_range(_typed(value, field.type, flag), field)
    if flag == "--out" and typed.is_dir() and typed.samefile(Path.cwd()) and not any(typed.iterdir()):
        # what is written beside it takes its place, and relative paths would lead nowhere
        raise ConfigError(f"{flag} {value} is the folder that this command runs in: give another one")
    return typed


def _in_range(value: Any, field: RequestField) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        field.option.check_range(value)
    return value


def _typed(value: Any, kind: type, flag: str) -> Any:
    if isinstance(value, str | Path) and (kind is Path or (kind is str and str(value).startswith("~/"))):
        try:
            path = Path(value).expanduser()  # a shell leaves the ~ of --out=~/x as it is
        except RuntimeError as error:
            raise ConfigError(
                f"{flag} (={value}): there is no such home folder; write ./{value} for a folder here"
            ) from error
        return kind(path.resolve() if path.name in ("", "..") else path)  # `.` has no name to write others beside
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{flag} (={value!r}) must be of type {kind.__name__}")
    return value
