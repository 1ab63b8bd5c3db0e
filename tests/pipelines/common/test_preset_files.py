"""Presets as files: what `presets show` prints is taken by `--config` and means the same; a run's folder too."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenreel.config import from_mapping, load_preset, preset_names, sha256_json, to_mapping
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import TokenSpec
from tokenreel.decoders.generators.base import GENERATORS
from tokenreel.errors import ConfigError
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.commands import presets
from tokenreel.pipelines.common.commented_yaml import field_comments, yaml_lines
from tokenreel.pipelines.common.settings import load_sections, resolve
from tokenreel.pipelines.requests.program import ListPresetsRequest, ShowPresetRequest
from tokenreel.pipelines.training.adversarial_objective import tokenizer_training
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.generator_config import GeneratorTrainingConfig
from tokenreel.pipelines.training.prior_objective import PriorTrainingConfig
from tokenreel.priors.base import PRIORS, levels_of, part_of_level
from tokenreel.tokenizers.base import TOKENIZERS
from tokenreel.tokenizers.controls.base import CONTROL_ENCODERS


def configurations(preset: str | None, file: Path | None) -> Iterator[tuple[str, Any]]:
    """What the commands make of a preset, or of a file, by name."""
    sections = resolve(preset, file, (), {}, "tokenizer")
    if "data" in sections:
        yield "data", from_mapping(DataConfig, sections["data"])
    if "tokenizer" in sections:
        yield "tokenizer", TOKENIZERS.config(sections["tokenizer"])
        yield "training.tokenizer", tokenizer_training(sections["training"])
    for name, section in sections.get("controls", {}).items():
        yield f"controls.{name}", CONTROL_ENCODERS.config(section)
    if "generator" in sections:
        yield "generator", (config := GENERATORS.config(sections["generator"]))
        adversary = GENERATORS.member(config.type).adversary_class
        yield "discriminators", from_mapping(adversary.config_class, sections["discriminators"])
        training = resolve(preset, file, (), {}, "generator")["training"]
        yield "training.generator", from_mapping(GeneratorTrainingConfig, training)
    for level in levels_of(sections["prior"]) if "prior" in sections else ():
        yield f"prior.{level}", PRIORS.config(part_of_level(sections["prior"], level))
        training = resolve(preset, file, (), {}, "prior", level)["training"]
        yield f"training.prior.{level}", from_mapping(PriorTrainingConfig, training)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_comes_back_from_its_yaml(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    assert run_command(["presets", "show", name, "--yaml"]) == 0
    file.write_text(capsys.readouterr().out)
    expected, found = dict(configurations(name, None)), dict(configurations(None, file))
    assert found == expected
    hashes = [
        {part: sha256_json(to_mapping(config)) for part, config in configs.items()} for configs in (expected, found)
    ]
    assert hashes[0] == hashes[1]
    assert load_sections(file).get("tokens") == to_json(load_preset(name).get("tokens"))
    for line in re.sub(r"(?m)^tokens:\n( .*\n)+", "", file.read_text()).splitlines():
        if re.match(r" +\w+: [^\s#]", line) and not re.match(r" +type: ", line):
            assert re.search(r"# .+; (default .+|required)$", line), line  # what it is, and its default


def to_json(tokens: Any) -> Any:
    return None if tokens is None else from_mapping(TokenSpec, tokens).to_json()


@pytest.mark.parametrize("name", ["gpt-tabletop-tiny", "video-vqvae-tabletop-tiny", "ccvs-tabletop-tiny-state"])
def test_what_show_prints_as_json_is_taken_too(name: str, tmp_path: Path) -> None:
    file = tmp_path / "shown.json"
    shown = presets.run(ShowPresetRequest(name=name))
    assert set(shown["parameters"]) <= {"tokenizer", "prior", "prior.top", "prior.bottom"}
    file.write_text(json.dumps(shown))
    assert dict(configurations(None, file)) == dict(configurations(name, None))


def test_an_edited_field_is_the_only_one_that_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = presets.run(ShowPresetRequest(name="gpt-tabletop-tiny", yaml=True))["yaml"]
    file.write_text(text.replace("depth: 4 ", "depth: 3 "))
    expected = dict(configurations("gpt-tabletop-tiny", None))
    expected["prior.None"] = dataclasses.replace(expected["prior.None"], depth=3)
    assert dict(configurations(None, file)) == expected


def test_settings_of_a_run_and_of_a_saved_model_are_taken(tmp_path: Path) -> None:
    expected = dict(configurations("gpt-tabletop-tiny", None))
    data, tokenizer, training = (to_mapping(expected[name]) for name in ("data", "tokenizer", "training.tokenizer"))
    config = {"data": data, "tokenizer": tokenizer, "training": training, "initialised_from": "a fingerprint"}
    (tmp_path / "run.json").write_text(json.dumps({"command": "train-tokenizer", "data": {}, "config": config}))
    spec = {"framing": data["framing"], "frames": data["frames"], "time": "framewise", "streams": []}
    model = {"kind": "tokenizer", "config": tokenizer, "spec": spec, "about": {}, "format_version": 1}
    (tmp_path / "config.json").write_text(json.dumps(model))
    for file in (tmp_path, tmp_path / "run.json"):
        assert dict(configurations(None, file)) == {
            name: expected[name] for name in ("data", "tokenizer", "training.tokenizer")
        }
        prior = resolve(None, file, (), {}, "prior")["training"]
        assert prior == {}  # steps and rates of the tokenizer are not a prior's
    saved = dict(configurations(None, tmp_path / "config.json"))
    assert (saved["data"], saved["tokenizer"]) == (expected["data"], expected["tokenizer"])
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping of sections"):
        load_sections(tmp_path / "list.yaml")


def test_a_class_without_source_has_no_comments() -> None:
    made = dataclasses.make_dataclass("Made", [("size", int, 3)], frozen=True)
    assert field_comments(made) == {}
    assert list(yaml_lines({"mine": made()})) == ["mine:", "  size: 3  # default 3"]
    assert field_comments(PriorTrainingConfig)["steps"] == field_comments(TrainingConfig)["steps"] == "optimizer steps"


def test_the_list_says_all_that_a_preset_says_of_itself() -> None:
    """Parameters too, and the times and the hardware of the opening comment."""
    listed = presets.run(ListPresetsRequest())
    tiny = listed["gpt-tabletop-tiny"]
    assert tiny["parameters"].keys() == {"tokenizer", "prior"}
    assert "takes 80 s" in tiny["about"]
    assert "two CPU cores" in tiny["about"]
    for preset in listed.values():
        assert preset["about"].rstrip(")").endswith((".", "controls"))
