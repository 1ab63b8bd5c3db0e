"""Controls: an ordered set of named coders, fitted once and kept like a tokenizer: saved, loaded, published.

Knows no data set and no cache; `pipelines/commands/fit_controls.py` fits one, `tokenize-dataset --controls` uses it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import numpy as np
from torch import nn

from tokenreel.data.cache.layout import COLUMNS
from tokenreel.data.controls.needs import ControlInput, ControlSource
from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec, given_name
from tokenreel.errors import ConfigError, DataError, nearest_name
from tokenreel.hub import PretrainedModel
from tokenreel.tokenizers.controls.base import CODERS, ControlEncoder, DatasetInfo, build_coder

TYPE = "controls"
RESERVED = frozenset((*COLUMNS, END, END_STEP))  # a cache's own arrays; the end frame, which is derived from the codes


class Controls(nn.Module, PretrainedModel):
    """Coders by track, in the order in which a prior is given their codes within a frame."""

    kind: ClassVar[str] = "controls"

    def __init__(self, coders: Mapping[str, ControlEncoder]) -> None:
        super().__init__()
        if not coders:
            raise ConfigError("controls: at least one is needed, as in controls: {state: {type: state}}")
        for name in coders:
            if not name.isidentifier() or not name.isascii():
                raise ConfigError(f"controls.{name}: a control is named by letters, digits and _")
            if name in RESERVED:
                raise ConfigError(
                    f"controls.{name}: none of {', '.join(sorted(RESERVED))} names a control; give it another name"
                )
        named = {f"{name}_": coder for name, coder in coders.items()}  # `type` is a module's own
        self.coders = cast(Mapping[str, ControlEncoder], nn.ModuleDict(named))

    def coder(self, name: str) -> ControlEncoder:
        """Raises ConfigError, with the nearest known name, where there is none of that name."""
        if f"{name}_" not in self.coders:
            raise ConfigError(f"no control is called {name!r}; {nearest_name(name, self.names)}")
        return self.coders[f"{name}_"]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name[:-1] for name in self.coders)

    @property
    def needs(self) -> dict[str, ControlSource]:
        """What `encode` wants, by track."""
        return {name: self.coder(name).need for name in self.names}

    def encode(self, raw: Mapping[str, ControlInput]) -> dict[str, np.ndarray]:
        """ControlInput controls of one clip -> int64 [t, h, w, q] by track. Raises DataError, naming the control."""
        indices = {}
        for name in raw:
            try:
                indices[name] = self.coder(name).encode(raw[name])
            except DataError as error:
                raise DataError(f"control {name!r}: {error}") from error
        return indices

    def tracks(self, frames: int) -> tuple[StreamSpec, ...]:
        """The streams of a clip of that many frames."""
        return tuple(self.coder(name).stream(name, frames) for name in self.names)

    def added_to(self, spec: TokenSpec) -> TokenSpec:
        """`spec` with the tracks behind its own streams. Raises ConfigError where a name is taken."""
        streams = [stream.name for stream in spec.streams]
        taken = {*streams, *map(given_name, streams)} & set(self.names)  # `<level>_given` means another thing
        if taken:
            raise ConfigError(
                f"controls.{min(taken)}: the tokenizer has a stream of that name; give the control another"
            )
        return dataclasses.replace(spec, streams=(*spec.streams, *self.tracks(spec.frames)))

    def extra_repr(self) -> str:
        """What torch prints above the coders."""
        return ", ".join(f"{name}: {self.coder(name).codebook_size:,} codes" for name in self.names)

    def to_document(self) -> dict[str, Any]:
        coders = [{"name": name, **self.coder(name).document} for name in self.names]
        return {"config": {"type": TYPE, "coders": coders}}  # a list, for JSON of a saved model sorts keys

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        coders = {}
        for entry in document["config"]["coders"]:
            settings = {key: value for key, value in entry.items() if key != "name"}
            coder = build_coder(CODERS.config(settings, f"controls.{entry['name']}"))
            coder.document = settings
            coders[entry["name"]] = coder
        return cls(coders)


def resolve_controls(section: Any, facts: DatasetInfo) -> Controls:
    """The coders of a `controls:` section, unfitted; what it leaves open is taken from `facts`."""
    configs = _configs(section)
    return Controls({name: build_coder(_member(config).settle(config, facts)) for name, config in configs.items()})


def _configs(section: Any) -> dict[str, Any]:
    """By name, as the section has them."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"controls: expected a mapping of names to controls, got {section!r}")
    return {name: CODERS.config(entry, f"controls.{name}") for name, entry in section.items()}


def _member(config: Any) -> type[ControlEncoder]:
    return CODERS.member(config.type)


def planned_controls(section: Any) -> dict[str, ControlEncoder]:
    """By name those of a section's coders, unfitted, that it leaves nothing open of: what their tracks look like is
    known before any data.
    """
    configs = _configs(section)
    return {name: build_coder(config) for name, config in configs.items() if not _member(config).leaves_open(config)}
