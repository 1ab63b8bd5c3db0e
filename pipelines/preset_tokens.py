"""Which tokens a preset's prior is meant for: those of its `tokens:` section, or those that its tokenizer makes."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch

from tokenreel.config import from_mapping
from tokenreel.data.plan import DataConfig
from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import build_tokenizer
from tokenreel.tokenizers.controls.controls import planned_controls


def tokens_of_sections(sections: Mapping[str, Any]) -> TokenSpec | None:
    """None where the sections do not say, or are said not to: `--set tokenizer=null`. Builds no weights.

    With the tracks of the `controls:` section, as far as that says what they look like.
    """
    spec = _levels_of_sections(sections)
    controls = sections.get("controls")
    if spec is None or not controls:
        return spec
    with torch.device("cpu"):  # small, and their fingerprints are part of the spec
        return planned_controls(controls).added_to(spec)


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
    both = {stream.name for stream in expected.streams} & {stream.name for stream in found.streams}
    wanted, has = _shapes(expected, both), _shapes(found, both)  # a track that is missing is the prior's to miss
    if wanted != has:
        section = "tokenizer" if sections.get("tokenizer") else "tokens"
        raise ConfigError(
            f"the cache holds {' and '.join(has)}, but this preset is meant for {' and '.join(wanted)}: tokenize with "
            f"a tokenizer of the same preset, or, to train on these codes all the same, add --set {section}=null"
        )


def _shapes(spec: TokenSpec, tracks: Container[str]) -> list[str]:
    """Of all levels, and of those tracks, in words."""
    shown = [stream for stream in spec.streams if stream.role == "level" or stream.name in tracks]
    return [f"{s.name!r} of {list(s.grid)} places, {s.codebooks} codebooks of {s.codes} codes" for s in shown]
