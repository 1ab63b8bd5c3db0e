"""The tokens that a preset's prior is made for: those of its `tokens:` section, or of its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tokenreel.config import from_mapping
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import build_tokenizer


def preset_spec(sections: Mapping[str, Any]) -> TokenSpec | None:
    """The spec, with the control streams of the `controls:` section whose shapes follow from it. Builds no weights.

    None if the sections determine no levels, or after `--set tokenizer=null`.
    """
    spec = _levels_spec(sections)
    controls = sections.get("controls")
    if spec is None or not controls:
        return spec
    # imported here because most presets have no controls: training their priors then imports no control encoders
    from tokenreel.tokenizers.controls.controls import Controls, resolved_encoders

    with torch.device("cpu"):  # not meta: they are small, and their fingerprints are part of the spec
        planned = resolved_encoders(controls)
        return Controls(planned).added_to(spec) if planned else spec


def _levels_spec(sections: Mapping[str, Any]) -> TokenSpec | None:
    if sections.get("tokenizer"):
        data = from_mapping(DataConfig, sections.get("data", {}), "data")
        with torch.device("meta"):
            return build_tokenizer(sections["tokenizer"], data.frames, data.framing).spec
    if not sections.get("tokens"):
        return None
    tokens: TokenSpec = from_mapping(TokenSpec, sections["tokens"], "tokens")
    return tokens


def require_tokens(sections: Mapping[str, Any], found: TokenSpec) -> None:
    """Raises ConfigError if levels or control streams of `found` differ from the preset's in grid or codebooks.

    A preset stands for a system of a certain size, which its prior trained on other tokens is not.
    """
    expected = preset_spec(sections)
    if expected is None:
        return
    section = "tokenizer" if sections.get("tokenizer") else "tokens"
    _require_shapes(expected.levels, found.levels, "tokenize with a tokenizer", section)
    controls = {stream.name: stream for stream in expected.streams if stream.role == "control"}
    present = [stream for stream in found.streams if stream.name in controls]  # the prior reports missing ones
    expected_controls = [controls[stream.name] for stream in present]
    _require_shapes(expected_controls, present, "tokenize with --controls from fit-controls", "controls")


def _require_shapes(expected: Sequence[StreamSpec], found: Sequence[StreamSpec], remedy: str, section: str) -> None:
    if _shapes(expected) != _shapes(found):
        raise ConfigError(
            f"the cache holds {_shapes(found)}, but this preset expects {_shapes(expected)}: {remedy} of the same "
            f"preset, or add --set {section}=null to train on these tokens anyway"
        )


def _shapes(streams: Sequence[StreamSpec]) -> str:
    return " and ".join(
        f"{s.name!r} with grid {list(s.grid)} and {s.codebooks} codebooks of {s.codebook_size} codes" for s in streams
    )
