"""The fields of a request as parameters of click, so that every name, default and range stands in the request alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from tokenreel.config import preset_names
from tokenreel.pipelines.requests.fields import Request, RequestField, fields_of

NONE = "none"  # an empty list, where a list is one value
COMPLETIONS = {"presets": preset_names}
METAVARS = {int: "N", float: "X", Path: "PATH"}  # of values whose flag states no other; else the flag in capitals


def parameters_of(request: type[Request]) -> dict[str, list[click.Parameter]]:
    """By the heading under which `--help` shows them: the request's own fields, then those of each group."""
    groups = [group for group in request.__bases__ if issubclass(group, Request) and group is not Request]
    fields = {field.name: field for field in fields_of(request)}
    inherited = {group: [field.name for field in fields_of(group)] for group in groups}
    own = fields.keys() - {name for names in inherited.values() for name in names}
    sections = {Request.heading: [name for name in fields if name in own]}
    sections |= {group.heading: names for group, names in inherited.items()}
    return {heading: [_parameter(fields[name]) for name in names] for heading, names in sections.items()}


def _parameter(field: RequestField) -> click.Parameter:
    option = field.option
    if option.positional:
        kind = _type(field.type, field)
        return click.Argument([field.name], type=kind, required=field.required, shell_complete=_completion(field))
    if field.type is bool:
        return click.Option([option.flag, field.name], is_flag=True, help=option.help)
    several = (field.is_tuple and not option.separated and field.length is None) or field.is_mapping
    default = {} if field.required or several else {"default": field.default}  # click takes a None for a value
    return click.Option(
        [option.flag, field.name],
        type=_type(field.element if field.is_tuple else field.type, field),
        required=field.required,
        show_default=not several and field.default is not None,
        **default,
        multiple=several,
        nargs=field.length or 1,
        callback=_callback(field),
        metavar=None if field.choices else metavar_of(field),  # click lists the choices
        help=option.help,
        shell_complete=_completion(field),
    )


def _completion(field: RequestField) -> Callable[[click.Context, click.Parameter, str], list[str]] | None:
    """What a shell offers for a value; None: what click does by itself for paths and choices."""
    if field.option.complete is None:
        return None
    values = COMPLETIONS[field.option.complete]
    return lambda _, __, start: [value for value in values() if value.startswith(start)]


def metavar_of(field: RequestField) -> str:
    """What stands for the value in `--help` and in docs/commands.md."""
    if field.length is not None and field.option.metavar is None:
        return " ".join([METAVARS.get(field.element, "NAME")] * field.length)
    kind = field.element if field.is_tuple else field.type
    return field.option.metavar or METAVARS.get(kind) or field.option.flag.strip("-").upper()


def _type(kind: Any, field: RequestField) -> click.ParamType:
    option = field.option
    low = option.minimum if option.above is None else option.above
    if field.choices:
        return click.Choice(field.choices)
    if kind is Path:
        return click.Path()  # a string, of which the request makes a path
    if kind is int and low is not None:
        return click.IntRange(int(low), min_open=option.above is not None)
    if kind is float and low is not None:
        return click.FloatRange(low, option.maximum, min_open=option.above is not None)
    return click.STRING


def _callback(field: RequestField) -> Callable[[click.Context, click.Parameter, Any], Any] | None:
    """Reads what click has no type for: lists with commas, and NAME=VALUE."""
    if field.is_mapping:
        return lambda _, __, pairs: _mapping(field, pairs)
    return (lambda _, __, text: _list(text)) if field.option.separated else None


def _list(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return () if text == NONE else tuple(name.strip() for name in text.split(","))


def _mapping(field: RequestField, pairs: tuple[str, ...]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not value or (field.element is int and not value.isdecimal()):
            raise click.BadParameter(f"{pair!r}: write it as {field.option.metavar}")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice, as {found[name]} and as {value}: give it once")
        found[name] = field.element(value)
    return found
