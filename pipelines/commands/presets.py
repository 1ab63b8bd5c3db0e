"""`tokenreel presets list` and `presets show`: the shipped presets, and one of them with all its defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import torch
from torch import nn

from tokenreel.config import from_mapping, load_preset, preset_names, to_mapping
from tokenreel.data.plan_config import DataConfig
from tokenreel.pipelines.common.preset_tokens import preset_spec
from tokenreel.pipelines.common.settings import resolve
from tokenreel.pipelines.requests.program import ListPresetsRequest, ShowPresetRequest
from tokenreel.pipelines.training.adversarial_objective import tokenizer_training
from tokenreel.pipelines.training.prior_objective import PriorTrainingConfig
from tokenreel.priors.base import Prior, build_prior, levels_of, part_of_level
from tokenreel.tokenizers.base import VideoTokenizer, build_tokenizer


def run(request: ListPresetsRequest | ShowPresetRequest) -> dict[str, Any]:
    """All presets, or one of them. Raises ConfigError for an unknown name."""
    return _show(request.name) if isinstance(request, ShowPresetRequest) else _list()


def _list() -> dict[str, Any]:
    """Each preset's name with its description and its sections."""
    return {name: {"about": _description(name), "sections": list(load_preset(name))} for name in preset_names()}


def _description(name: str) -> str:
    """The first sentence at the preset's top after the command lines."""
    text = (resources.files("tokenreel.pipelines") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    words = " ".join(line for line in comments if line and not line.startswith("tokenreel "))
    return re.split(r"(?<!et al)\. |\.$", words)[0]


def _show(name: str) -> dict[str, Any]:
    """The resolved sections of the preset, `training` of each stage, and the number of `parameters` of each network."""
    preset = load_preset(name)
    networks = build_on_meta(preset)
    shown: dict[str, Any] = {}
    if "data" in preset:
        shown["data"] = to_mapping(from_mapping(DataConfig, preset["data"], "data"))
    if networks:
        spec = next(iter(networks.values())).spec
        shown["tokens"] = spec.to_json()
    shown |= {section: to_mapping(network.config) for section, network in networks.items()}
    shown["training"] = {stage: _training(name, stage) for stage in networks}
    shown["parameters"] = {section: _parameters(network) for section, network in networks.items()}
    return shown


def build_on_meta(preset: Mapping[str, Any]) -> dict[str, VideoTokenizer | Prior]:
    """The networks of a preset by section, without memory for their weights."""
    networks: dict[str, VideoTokenizer | Prior] = {}
    with torch.device("meta"):
        if "tokenizer" in preset:
            data = from_mapping(DataConfig, preset["data"], "data")
            networks["tokenizer"] = build_tokenizer(preset["tokenizer"], data.frames, data.framing)
        spec = preset_spec(preset)
        if spec is not None and "prior" in preset:
            for level in levels_of(preset["prior"]):
                networks[_name("prior", level)] = build_prior(part_of_level(preset["prior"], level), spec)
    return networks


def _name(stage: str, level: str | None) -> str:
    return stage if level is None else f"{stage}.{level}"


def _training(name: str, network: str) -> dict[str, Any]:
    stage, _, level = network.partition(".")
    section = resolve(name, None, (), {}, stage, level or None)["training"]
    path = f"training.{network}"
    if stage == "tokenizer":
        return to_mapping(tokenizer_training(section, path))
    return to_mapping(from_mapping(PriorTrainingConfig, section, path))


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
