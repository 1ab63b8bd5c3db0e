"""Controls: an ordered set of named control encoders, fitted once and saved, loaded and published like a tokenizer.

`fit-controls` fits one, `tokenize-dataset --controls` and `generate` use it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import numpy as np
from torch import nn

from tokenreel.data.cache.layout import COLUMNS
from tokenreel.data.controls.inputs import ControlInput, ControlSource
from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec, given_name
from tokenreel.errors import ConfigError, DataError, nearest_name, shown
from tokenreel.hub import PretrainedModel
from tokenreel.tokenizers.controls.base import CONTROL_ENCODERS, ControlEncoder, DatasetInfo, build_control_encoder

TYPE = "controls"
RESERVED_NAMES = frozenset((*COLUMNS, END, END_STEP))  # arrays of a cache; the end frame, derived from the tokens


class Controls(nn.Module, PretrainedModel):
    """Control encoders by name, in the order in which a prior takes their tokens within a frame."""

    kind: ClassVar[str] = "controls"

    def __init__(self, encoders: Mapping[str, ControlEncoder]) -> None:
        super().__init__()
        if not encoders:
            raise ConfigError("controls: expected at least one, as in controls: {state: {type: state}}")
        for name in encoders:
            if not name.isidentifier() or not name.isascii():
                raise ConfigError(f"controls.{name}: the name of a control must consist of letters, digits and _")
            if name in RESERVED_NAMES:
                raise ConfigError(
                    f"controls.{name}: reserved name (one of {', '.join(sorted(RESERVED_NAMES))}); choose another"
                )
        modules = {f"{name}_": encoder for name, encoder in encoders.items()}  # nn.Module has a method `type`
        self.encoders = cast(Mapping[str, ControlEncoder], nn.ModuleDict(modules))

    def encoder(self, name: str) -> ControlEncoder:
        """The encoder of a control. Raises ConfigError, with the most similar name, if there is none of that name."""
        if f"{name}_" not in self.encoders:
            raise ConfigError(f"no control is called {name!r}; {nearest_name(name, self.names)}")
        return self.encoders[f"{name}_"]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name[:-1] for name in self.encoders)

    @property
    def sources(self) -> dict[str, ControlSource]:
        """The sources of the inputs that `encode` takes, by control."""
        return {name: self.encoder(name).source for name in self.names}

    def encode(self, inputs: Mapping[str, ControlInput]) -> dict[str, np.ndarray]:
        """Inputs of one clip by control -> tokens int64 [t, h, w, q]. Raises DataError, naming the control."""
        indices = {}
        for name in inputs:
            try:
                indices[name] = self.encoder(name).encode(inputs[name])
            except DataError as error:
                raise DataError(f"control {name!r}: {error}") from error
        return indices

    def streams(self, frames: int) -> tuple[StreamSpec, ...]:
        """The control streams of a clip of `frames` frames."""
        return tuple(self.encoder(name).stream(name, frames) for name in self.names)

    def added_to(self, spec: TokenSpec) -> TokenSpec:
        """`spec` with the control streams after its own. Raises ConfigError if a name is in use."""
        streams = [stream.name for stream in spec.streams]
        taken = {*streams, *map(given_name, streams)} & set(self.names)  # `<level>_given` has another meaning
        if taken:
            raise ConfigError(f"controls.{min(taken)}: the tokenizer has a stream of that name; rename the control")
        return dataclasses.replace(spec, streams=(*spec.streams, *self.streams(spec.frames)))

    def extra_repr(self) -> str:
        """The line that torch prints above the encoders."""
        return ", ".join(f"{name}: {self.encoder(name).codebook_size:,} codes" for name in self.names)

    def to_document(self) -> dict[str, Any]:
        encoders = [{"name": name, **self.encoder(name).document} for name in self.names]
        return {"config": {"type": TYPE, "encoders": encoders}}  # a list, because saved JSON has sorted keys

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        encoders = {}
        config = document["config"]
        entries = config.get("encoders") if isinstance(config, Mapping) else config
        if not isinstance(entries, list):
            raise ConfigError(f"config.encoders: expected a list of the encoders of controls, got {shown(entries)}")
        for entry in entries:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                raise ConfigError(f"config.encoders: expected mappings with the name of a control, got {shown(entry)}")
            settings = {key: value for key, value in entry.items() if key != "name"}
            encoder = build_control_encoder(CONTROL_ENCODERS.config(settings, f"controls.{entry['name']}"))
            encoder.document = settings
            encoders[entry["name"]] = encoder
        return cls(encoders)


def resolve_controls(section: Any, dataset: DatasetInfo) -> Controls:
    """The controls of a `controls:` section, not fitted; defaults are taken from the data set."""
    resolved = {name: _member(config).resolve_defaults(config, dataset) for name, config in _configs(section).items()}
    return Controls({name: build_control_encoder(config) for name, config in resolved.items()})


def resolved_encoders(section: Any) -> dict[str, ControlEncoder]:
    """The control encoders of a section, not fitted, except those whose defaults need a data set. Their streams are
    known without one.
    """
    configs = {name: config for name, config in _configs(section).items() if not _member(config).needs_dataset(config)}
    return {name: build_control_encoder(config) for name, config in configs.items()}


def _configs(section: Any) -> dict[str, Any]:
    """Configurations by control."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"controls: expected a mapping of names to controls, got {shown(section)}")
    return {name: CONTROL_ENCODERS.config(entry, f"controls.{name}") for name, entry in section.items()}


def _member(config: Any) -> type[ControlEncoder]:
    return CONTROL_ENCODERS.member(config.type)
