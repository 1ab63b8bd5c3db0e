"""Configurations as YAML for people: each field with the comment of its declaration and its default."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tokenreel.config import TYPE_KEY, to_mapping

INDENT = "  "


@dataclasses.dataclass(frozen=True)
class _Holder:
    value: Any


def yaml_lines(section: Any, depth: int = 0) -> Iterator[str]:
    """The lines of a section: a configuration, a mapping of names to sections, or plain data."""
    indent = INDENT * depth
    if isinstance(section, Mapping):
        for name, part in section.items():
            yield from _entry(name, part, depth)
        return
    if hasattr(section, TYPE_KEY):
        yield f"{indent}{TYPE_KEY}: {section.type}"
    comments = field_comments(type(section))
    for field in dataclasses.fields(section):
        if field.init:
            value = getattr(section, field.name)
            about = [comments.get(field.name, ""), "" if _has_lines(value) else _default(field)]
            yield from _entry(field.name, value, depth, "; ".join(filter(None, about)))


def _entry(name: str, value: Any, depth: int, about: str = "") -> Iterator[str]:
    indent, comment = INDENT * depth, f"  # {about}" if about else ""
    if _has_lines(value):
        yield f"{indent}{name}:{comment}"
        yield from yaml_lines(value, depth + 1)
    else:
        yield f"{indent}{name}: {_inline(value)}{comment}"


def _has_lines(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_lines, value.values()))
    return dataclasses.is_dataclass(value) and bool(dataclasses.fields(value) or hasattr(value, TYPE_KEY))


def _default(field: dataclasses.Field[Any]) -> str:
    """In words; nothing where it is a section of its own, whose fields say theirs."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    return "" if _has_lines(value) else f"default {_inline(value)}"


def _inline(value: Any) -> str:
    """In one line."""
    plain = to_mapping(_Holder(value))["value"]
    return (
        yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=float("inf"))
        .removesuffix("...\n")
        .strip()
    )


def field_comments(cls: type[Any]) -> Mapping[str, str]:
    """The comment behind the declaration of each field of a dataclass, inherited ones included; empty where its source
    is not at hand.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _comments_in(base)
    return found


def _comments_in(cls: type[Any]) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:  # a class of a notebook or of the interpreter
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (declaration,) = ast.parse(source).body
    assert isinstance(declaration, ast.ClassDef)
    return {
        statement.target.id: re.sub(r"\bNone\b", "null", " ".join(behind))  # as it is written in YAML
        for statement in declaration.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if (behind := [comments[line] for line in _lines_of(statement) if line in comments])
    }


def _lines_of(statement: ast.stmt) -> range:
    return range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
