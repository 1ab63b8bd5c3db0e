"""The settings of a command, merged from its sources: defaults < preset < --config FILE < --set < flags.

A file has sections. `training:` may have a part for each stage, so that one preset serves a whole system:
`training.tokenizer` applies to train-tokenizer only, whatever stands beside it to every stage. If a system has a prior
for each level, `prior:` and `training.prior` have a part for each level in the same way.

All --set of a command are one source: their order matters only if two of them set the same field, when the last one
applies.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from tokenreel.config import TYPE_KEY, load_preset, load_yaml, merge, parse_yaml
from tokenreel.errors import ConfigError, nearest_name, shown
from tokenreel.pipelines.common.folders import RUN_FILE

SECTIONS = ("data", "tokenizer", "controls", "tokens", "prior", "generator", "discriminators", "training")
COUNTED = "parameters"  # what `presets show` adds to the sections
MODEL_SECTIONS = ("tokenizer", "prior", "generator")  # kinds of saved models whose configuration is a section
STAGES = ("tokenizer", "prior", "generator")  # parts that `training:` may have


def resolve(
    preset: str | None,
    config_file: Path | None,
    assignments: Iterable[str],
    flags: Mapping[str, Any],
    stage: str,
    level: str | None = None,
) -> dict[str, Any]:
    """The sections as plain data, with the `training` section of `stage` and, for a prior, of its `level`.

    `assignments` are those of --set (`prior.depth=2`); `flags` have such names too, and None is a flag not given.
    Raises ConfigError for an unknown preset or section, and for an invalid assignment.
    """
    layers = [load_preset(preset)] if preset is not None else []
    if config_file is not None:
        layers.append(load_sections(config_file))
    layers.append(read_assignments(assignments))
    layers += [_nested(name.split("."), value) for name, value in flags.items() if value is not None]
    sections: dict[str, Any] = {}
    for layer in layers:
        for name in layer:
            if name not in SECTIONS:
                raise ConfigError(f"section {shown(name)} is not known; {nearest_name(name, SECTIONS)}")
        sections = merge(sections, layer)
    levels = set(sections["prior"]) if isinstance(sections.get("prior"), Mapping) else set()
    training: dict[str, Any] = {}
    for layer in layers:
        training = merge(training, _training(layer.get("training") or {}, stage, level, levels))
    return {**sections, "training": training}


def load_sections(path: Path) -> dict[str, Any]:
    """The sections in a file of settings. It may also be what `presets show --json` prints, a run folder or its
    run.json, or the config.json of a saved model.

    Raises ConfigError as `load_yaml`.
    """
    if (path / RUN_FILE).is_file():
        path = path / RUN_FILE
    document = load_yaml(path)
    config = document.get("config")
    if isinstance(config, Mapping) and "command" in document:  # of a run, whose training is that of one stage
        stage = str(document["command"]).removeprefix("train-")
        own = {name: section for name, section in config.items() if name in SECTIONS}  # not the weights it began with
        document = {**own, "training": {stage: config.get("training") or {}}}
    elif isinstance(config, Mapping) and document.get("kind") in MODEL_SECTIONS:
        spec = document.get("spec") or {}
        clips = {name: spec[name] for name in ("framing", "frames") if name in spec}
        others = {"tokens": spec} if document["kind"] == "prior" else {"data": clips}
        document = {document["kind"]: dict(config), **others}
    return {name: section for name, section in document.items() if name != COUNTED}


def require_section(sections: Mapping[str, Any], name: str) -> Any:
    """The section `name`. Raises ConfigError if there is none."""
    if name not in sections:
        raise ConfigError(f"no section {shown(name)}: give --preset NAME or --config FILE that has one")
    return sections[name]


def _training(section: Any, stage: str, level: str | None, levels: Container[str]) -> dict[str, Any]:
    """The settings of `stage` and `level`, one of `levels`: within a source a part overrides what is shared."""
    section = _require_mapping(section, "training")
    shared = {key: value for key, value in section.items() if key not in STAGES}
    own = _require_mapping(section.get(stage) or {}, f"training.{stage}")
    if level is None:
        return merge(shared, own)
    of_all_levels = {key: value for key, value in own.items() if key not in levels}
    of_level = _require_mapping(own.get(level) or {}, f"training.{stage}.{level}")
    return merge(merge(shared, of_all_levels), of_level)


def _require_mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected a mapping, got {shown(value)}")
    return value


class _Assignment(NamedTuple):
    text: str  # as it was typed
    field: tuple[str, ...]
    value: Any  # a mapping assigns to each of its fields

    @property
    def tree(self) -> Any:
        return _nested(self.field, self.value)

    def replaces(self, earlier: _Assignment) -> bool:
        """Whether this overrides all of an `earlier` assignment: not if both set fields of the same type in it."""
        if self.field != earlier.field or not (isinstance(self.value, Mapping) and isinstance(earlier.value, Mapping)):
            return self.field == earlier.field
        new, old = self.value.get(TYPE_KEY), earlier.value.get(TYPE_KEY)
        return new is not None and old is not None and new != old


def read_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Merges all --set (`prior.depth=2`) of a command into one layer; values are YAML.

    Raises ConfigError for an invalid assignment, and for two of which one sets a field of what the other sets to
    something other than a mapping.
    """
    kept: list[_Assignment] = []
    for assignment in map(_parse_assignment, assignments):
        kept = [earlier for earlier in kept if not assignment.replaces(earlier)]
        for earlier in kept:
            if _clash(earlier.tree, assignment.tree):
                raise ConfigError(f"--set {earlier.text!r} and --set {assignment.text!r} exclude each other; drop one")
        kept.append(assignment)
    return reduce(_joined, (assignment.tree for assignment in kept), {})


def _parse_assignment(text: str) -> _Assignment:
    dotted, equals, value = text.partition("=")
    field = tuple(dotted.split("."))
    if not equals or not all(field):
        raise ConfigError(f"--set {text!r}: write it as section.field=value, as in --set prior.depth=2")
    return _Assignment(text, field, parse_yaml(value, f"--set {text!r}: the value is not YAML"))


def _nested(keys: Sequence[str], value: Any) -> Any:
    """Nests `value` below `keys`: a, b -> {a: {b: value}}."""
    for key in reversed(keys):
        value = {key: value}
    return value


def _clash(one: Any, other: Any) -> bool:
    """Whether at some key one value is a mapping and the other is not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return any(_clash(one[key], other[key]) for key in one.keys() & other.keys())
    return isinstance(one, Mapping) or isinstance(other, Mapping)


def _joined(one: Any, other: Any) -> Any:
    """Merges two values that do not clash. Unlike in `merge`, a `type` does not drop what was set before it."""
    if not isinstance(one, Mapping):
        return other
    return {**one, **{key: _joined(one[key], item) if key in one else item for key, item in other.items()}}
