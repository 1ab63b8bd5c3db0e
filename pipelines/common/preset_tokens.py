"""Which tokens a preset's prior is meant for: those of its `tokens:` section, or those that its tokenizer makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tokenreel.config import from_mapping
from tokenreel.data.plan import DataConfig
from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import build_tokenizer
from tokenreel.tokenizers.controls.controls import Controls, resolved_encoders


def tokens_of_sections(sections: Mapping[str, Any]) -> TokenSpec | None:
    """None where the sections do not say, or are said not to: `--set tokenizer=null`. Builds no weights.

    With the tracks of the `controls:` section, as far as that says what they look like.
    """
    spec = _levels_of_sections(sections)
    controls = sections.get("controls")
    if spec is None or not controls:
        return spec
    with torch.device("cpu"):  # small, and their fingerprints are part of the spec
        planned = resolved_encoders(controls)
        return Controls(planned).added_to(spec) if planned else spec


def _levels_of_sections(sections: Mapping[str, Any]) -> TokenSpec | None:
    if sections.get("tokenizer"):
        data = from_mapping(DataConfig, sections.get("data", {}), "data")
        with torch.device("meta"):
            return build_tokenizer(sections["tokenizer"], data.frames, data.framing).spec
    if not sections.get("tokens"):
        return None
    tokens: TokenSpec = from_mapping(TokenSpec, sections["tokens"], "tokens")
    return tokens


def require_tokens(sections: Mapping[str, Any], found: TokenSpec) -> None:
    """Raises ConfigError where the levels, or tracks, of `found` have other grids or codebooks than the sections say.

    A preset stands for a system of a certain size; its prior on other codes would pass for something that it is not.
    """
    expected = tokens_of_sections(sections)
    if expected is None:
        return
    section = "tokenizer" if sections.get("tokenizer") else "tokens"
    _require_shapes(expected.levels, found.levels, "tokenize with a tokenizer", section)
    named = {stream.name: stream for stream in expected.streams if stream.role == "control"}
    here = [stream for stream in found.streams if stream.name in named]  # one that is missing is the prior's to miss
    wanted = [named[stream.name] for stream in here]
    _require_shapes(wanted, here, "tokenize with --controls that fit-controls made", "controls")


def _require_shapes(wanted: Sequence[StreamSpec], found: Sequence[StreamSpec], remedy: str, section: str) -> None:
    if _shapes(wanted) != _shapes(found):
        raise ConfigError(
            f"the cache holds {_shapes(found)}, but this preset is meant for {_shapes(wanted)}: {remedy} of the same "
            f"preset, or, to train on these codes all the same, add --set {section}=null"
        )


def _shapes(streams: Sequence[StreamSpec]) -> str:
    return " and ".join(
        f"{s.name!r} of {list(s.grid)} places, {s.codebooks} codebooks of {s.codebook_size} codes" for s in streams
    )
