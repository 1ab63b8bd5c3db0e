"""Which tokens a preset's prior is meant for: those of its `tokens:` section, or those that its tokenizer makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tokenreel.config import from_mapping
from tokenreel.data.plan import DataConfig
from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import build_tokenizer


def tokens_of_sections(sections: Mapping[str, Any]) -> TokenSpec | None:
    """None where the sections do not say, or are said not to: `--set tokenizer=null`. Builds no weights."""
    if sections.get("tokens"):
        tokens: TokenSpec = from_mapping(TokenSpec, sections["tokens"], "tokens")
        return tokens
    if not sections.get("tokenizer"):
        return None
    data = from_mapping(DataConfig, sections.get("data", {}), "data")
    with torch.device("meta"):
        return build_tokenizer(sections["tokenizer"], data.frames, data.framing).spec


def require_tokens(sections: Mapping[str, Any], found: TokenSpec) -> None:
    """Raises ConfigError where the levels of `found` have other grids or codebooks than the sections are meant for.

    A preset stands for a system of a certain size; its prior on other codes would pass for something that it is not.
    """
    expected = tokens_of_sections(sections)
    if expected is None:
        return
    wanted, has = ([_shape(level) for level in spec.levels] for spec in (expected, found))
    if wanted != has:
        section = "tokens" if sections.get("tokens") else "tokenizer"
        raise ConfigError(
            f"the cache holds {' and '.join(has)}, but this preset is meant for {' and '.join(wanted)}: tokenize with "
            f"a tokenizer of the same preset, or, to train on these codes all the same, add --set {section}=null"
        )


def _shape(level: StreamSpec) -> str:
    return f"{level.name!r} of {list(level.grid)} places, {level.codebooks} codebooks of {level.codes} codes"
