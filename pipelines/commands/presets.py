"""`tokenreel presets list` and `presets show`: the shipped presets, and one of them with all its defaults."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import torch
from torch import nn

from tokenreel.config import from_mapping, load_preset, preset_names, to_mapping
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import TokenSpec
from tokenreel.data.tabletop.scene import CLASSES
from tokenreel.decoders.generators.base import GENERATORS, build_generator
from tokenreel.pipelines.common.commented_yaml import yaml_lines
from tokenreel.pipelines.common.preset_tokens import preset_spec
from tokenreel.pipelines.common.settings import resolve
from tokenreel.pipelines.requests.program import ListPresetsRequest, ShowPresetRequest
from tokenreel.pipelines.training.adversarial_objective import tokenizer_training
from tokenreel.pipelines.training.generator_config import GeneratorTrainingConfig
from tokenreel.pipelines.training.prior_objective import PriorTrainingConfig
from tokenreel.priors.base import PRIORS, build_prior, levels_of, part_of_level
from tokenreel.tokenizers.base import TOKENIZERS, build_tokenizer
from tokenreel.tokenizers.controls.base import CONTROL_ENCODERS

CLASS_COUNTS = {"kinetics": 600, "ucf101": 101, "tabletop": len(CLASSES)}
Sections = dict[str, Any]  # configurations, and mappings of names to them


def run(request: ListPresetsRequest | ShowPresetRequest) -> dict[str, Any]:
    """All presets, or one of them. Raises ConfigError for an unknown name."""
    if isinstance(request, ListPresetsRequest):
        return _list()
    return {request.verbatim: _yaml(request.name)} if request.verbatim else _show(request.name)


def _list() -> dict[str, Any]:
    """Each preset's name with its description, its sections, and the number of parameters of each network."""
    return {
        name: {
            "about": " ".join(description(name).split()),
            "sections": list(load_preset(name)),
            "parameters": _count_parameters(name),
        }
        for name in preset_names()
    }


def description(name: str) -> str:
    """The prose of a preset's opening comment, with what time and hardware it takes where that is known; commands and
    indented lines, which count parameters, are omitted.
    """
    text = (resources.files("tokenreel.pipelines") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return "\n".join(line[2:] for line in comment if not line.startswith(("# tokenreel ", "#  ")))


def _show(name: str) -> dict[str, Any]:
    """The resolved sections of the preset, its `tokens`, and the number of `parameters` of each network."""
    preset = load_preset(name)
    spec = preset_spec(preset)
    shown = {section: _plain(part) for section, part in resolved_sections(name).items()}
    return {**shown, **({"tokens": spec.to_json()} if spec else {}), "parameters": _count_parameters(name)}


def _yaml(name: str) -> str:
    """A file for `--config` with every field of the preset."""
    about = "\n".join(f"# {line}".rstrip() for line in description(name).splitlines())
    parts = ["\n".join(yaml_lines({section: part})) for section, part in resolved_sections(name).items()]
    return f"# {name}: all fields. Edit them, and give the file by --config FILE in place of --preset.\n" + "\n\n".join(
        [about, *parts]
    )


def resolved_sections(name: str) -> Sections:
    """The sections of a preset as configurations, with `training` divided into its stages and levels."""
    preset, sections = load_preset(name), Sections()
    if "data" in preset:
        sections["data"] = from_mapping(DataConfig, preset["data"], "data")
    if "tokenizer" in preset:
        sections["tokenizer"] = TOKENIZERS.config(preset["tokenizer"], "tokenizer")
    if "controls" in preset:
        controls = preset["controls"].items()
        sections["controls"] = {name: CONTROL_ENCODERS.config(entry, f"controls.{name}") for name, entry in controls}
    if "tokens" in preset:
        sections["tokens"] = from_mapping(TokenSpec, preset["tokens"], "tokens").to_json()
    training = Sections()
    if "tokenizer" in preset:
        section = resolve(name, None, (), {}, "tokenizer")["training"]
        training["tokenizer"] = tokenizer_training(section, "training.tokenizer")
    if "prior" in preset:
        sections["prior"] = _of_levels(preset, lambda level: PRIORS.config(part_of_level(preset["prior"], level)))
        training["prior"] = _of_levels(preset, lambda level: _prior_training(name, level))
    if "generator" in preset:
        sections["generator"] = config = GENERATORS.config(preset["generator"], "generator")
        adversary = GENERATORS.member(config.type).adversary_class
        sections["discriminators"] = from_mapping(
            adversary.config_class, preset.get("discriminators", {}), "discriminators"
        )
        section = resolve(name, None, (), {}, "generator")["training"]
        training["generator"] = from_mapping(GeneratorTrainingConfig, section, "training.generator")
    return {**sections, "training": training}


def _of_levels(preset: Mapping[str, Any], part: Callable[[str | None], Any]) -> Any:
    """The part of the preset's one prior, or a mapping of its levels to theirs."""
    levels = levels_of(preset["prior"])
    return part(None) if levels == [None] else {level: part(level) for level in levels}


def _prior_training(name: str, level: str | None) -> PriorTrainingConfig:
    section = resolve(name, None, (), {}, "prior", level)["training"]
    return from_mapping(PriorTrainingConfig, section, f"training.{_name('prior', level)}")


def _plain(section: Any) -> Any:
    if dataclasses.is_dataclass(section):
        return to_mapping(section)
    return {name: _plain(part) for name, part in section.items()} if isinstance(section, Mapping) else section


def build_on_meta(name: str) -> dict[str, nn.Module]:
    """The networks of a preset by section, without memory for their weights; each discriminator is one."""
    preset, networks = load_preset(name), dict[str, nn.Module]()
    with torch.device("meta"):
        if "tokenizer" in preset:
            data = from_mapping(DataConfig, preset["data"], "data")
            networks["tokenizer"] = build_tokenizer(preset["tokenizer"], data.frames, data.framing)
        spec = preset_spec(preset)
        if spec is not None and "prior" in preset:
            for level in levels_of(preset["prior"]):
                networks[_name("prior", level)] = build_prior(part_of_level(preset["prior"], level), spec)
        if "generator" in preset:
            data = from_mapping(DataConfig, preset["data"], "data")
            generator = build_generator(preset["generator"], data.frames, data.framing, _classes(name, preset))
            networks["generator"] = generator
            adversary = generator.new_adversary(preset.get("discriminators", {}))
            networks |= {f"discriminators.{part}": network for part, network in adversary.named_children()}
    return networks


def _classes(name: str, preset: Mapping[str, Any]) -> tuple[str, ...]:
    """As many classes as the data in the preset's name have, for a generator that is conditioned on them."""
    conditional = getattr(GENERATORS.config(preset["generator"], "generator"), "class_conditional", False)
    count = next((count for data, count in CLASS_COUNTS.items() if f"-{data}-" in name), 1) if conditional else 0
    return tuple(f"class {number}" for number in range(count))


def _name(stage: str, level: str | None) -> str:
    return stage if level is None else f"{stage}.{level}"


def _count_parameters(name: str) -> dict[str, int]:
    """By network: `tokenizer`, `prior` or `prior.LEVEL`, `generator`, `discriminators.PART`."""
    counts = {part: _parameters(network) for part, network in build_on_meta(name).items()}
    return {part: count for part, count in counts.items() if count}


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
