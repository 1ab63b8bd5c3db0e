"""The settings of a command out of its sources: defaults < preset < --config FILE < --set < flags. Builds nothing.

A file has sections. `training:` may hold a part for each stage, so that one preset serves a whole system: what stands
in `training.tokenizer` counts for train-tokenizer alone, what stands beside it for every stage. Where a system has a
prior for each level of its codes, `prior:` and `training.prior` hold a part for each level in the same way.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenreel.config import load_preset, load_yaml, merge, set_field
from tokenreel.errors import ConfigError, nearest_name

SECTIONS = ("data", "tokenizer", "controls", "tokens", "prior", "generator", "training")
STAGES = ("tokenizer", "prior", "generator")  # parts that `training:` may have


def resolve(
    preset: str | None,
    config_file: Path | None,
    assignments: Iterable[str],
    flags: Mapping[str, Any],
    stage: str,
    level: str | None = None,
) -> dict[str, Any]:
    """The sections as plain data, with `training` as it is for `stage` and, of a prior, for its `level`.

    `assignments` are those of --set (`prior.depth=4`); `flags` go by such names too, and None stands for a flag that
    was not given. Raises ConfigError for a preset, section or assignment that is not known.
    """
    layers = [load_preset(preset)] if preset is not None else []
    if config_file is not None:
        layers.append(load_yaml(config_file))
    layers += [set_field({}, assignment) for assignment in assignments]
    layers += [_nested(name, value) for name, value in flags.items() if value is not None]
    sections: dict[str, Any] = {}
    for layer in layers:
        for name in layer:
            if name not in SECTIONS:
                raise ConfigError(f"section {name!r} is not known; {nearest_name(name, SECTIONS)}")
        sections = merge(sections, layer)
    levels = set(sections["prior"]) if isinstance(sections.get("prior"), Mapping) else set()
    training: dict[str, Any] = {}
    for layer in layers:
        training = merge(training, _training(layer.get("training") or {}, stage, level, levels))
    return {**sections, "training": training}


def require_section(sections: Mapping[str, Any], name: str) -> Any:
    """The section; ConfigError, saying where it could come from, if there is none."""
    if name not in sections:
        raise ConfigError(f"no section {name!r}: give --preset NAME or --config FILE that has one")
    return sections[name]


def _training(section: Any, stage: str, level: str | None, levels: Container[str]) -> dict[str, Any]:
    """What counts for `stage` and `level`, one of `levels`; within a source a part wins over what is shared."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"training: expected a mapping, got {section!r}")
    shared = {key: value for key, value in section.items() if key not in STAGES}
    own = section.get(stage) or {}
    if level is None:
        return merge(shared, own)
    of_all_levels = {key: value for key, value in own.items() if key not in levels}
    return merge(merge(shared, of_all_levels), own.get(level) or {})


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value
