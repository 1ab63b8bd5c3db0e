"""A preset's prior is trained on the tokens that it was designed for, unless the user overrides it."""

from __future__ import annotations

import dataclasses

import pytest

from tokenreel.config import load_preset
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.preset_tokens import preset_spec, require_tokens


def tokens(grid: tuple[int, int, int] = (16, 16, 16), codes: int = 64, codebooks: int = 4) -> TokenSpec:
    return TokenSpec((StreamSpec("video", grid, codes, codebooks),), grid[0], Framing(64, 64))


def test_tokens_are_compared_with_the_tokenizer_of_the_preset() -> None:
    preset = load_preset("lvt-tabletop-tiny")
    require_tokens(preset, tokens())
    with pytest.raises(ConfigError, match=r"\[16, 16, 16\] and 1 codebooks of 64.*expects.* 4 codebooks of 64"):
        require_tokens(preset, tokens(codebooks=1))
    with pytest.raises(ConfigError, match=r"\[16, 8, 8\] and.*\[16, 16, 16\] and.*--set tokenizer=null"):
        require_tokens(preset, tokens(grid=(16, 8, 8)))


def test_tokens_are_compared_with_the_section_tokens() -> None:
    preset = load_preset("gpt-bair-paper")
    with pytest.raises(ConfigError, match=r"codebooks of 64 codes.*codebooks of 1024 codes.*--set tokens=null"):
        require_tokens(preset, tokens(grid=(16, 8, 8), codebooks=1))


def test_control_streams_are_part_of_the_tokens() -> None:
    preset = load_preset("ccvs-bair-paper-state")
    planned = preset_spec(preset)
    assert [(s.name, s.grid, s.codebook_size) for s in planned.streams] == [
        ("video", (16, 8, 8), 1024), ("state", (16, 1, 2), 128)
    ]  # fmt: skip
    require_tokens(preset, planned)
    other = dataclasses.replace(planned.stream("state"), codebook_size=32, unconditional_token=32)
    with pytest.raises(
        ConfigError, match=r"'state' with grid \[16, 1, 2\] and 1 codebooks of 32.* of 128 codes.*--set controls=null"
    ):
        require_tokens(preset, dataclasses.replace(planned, streams=(planned.stream("video"), other)))
    require_tokens(preset, dataclasses.replace(planned, streams=planned.levels))  # the prior reports what is missing


def test_control_streams_that_depend_on_the_data_are_not_compared() -> None:
    preset = load_preset("ccvs-bair-paper-state")
    left_open = {"class": {"type": "class"}, "sound": {"type": "sound"}, "arm": {"type": "state"}}
    planned = preset_spec({**preset, "controls": {**left_open, **preset["controls"]}})
    assert planned == preset_spec(preset)
    assert preset_spec({**preset, "controls": left_open}) == preset_spec({**preset, "controls": None})


def test_the_user_can_override_the_preset() -> None:
    sections = {**load_preset("lvt-tabletop-tiny"), "tokenizer": None}
    assert preset_spec(sections) is None
    require_tokens(sections, tokens(codebooks=1))
