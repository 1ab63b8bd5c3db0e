"""The flags by which a person steers a video, as in `--class sweep --states arm.csv` -> codes by track, for the priors.

Knows the fitted controls and the tracks that the priors were trained with; no pixels, and not how codes are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tokenreel.data.controls.needs import ControlSource, SoundSource
from tokenreel.data.decoding.raw_controls import RATE_TOLERANCE
from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError, DataError
from tokenreel.pipelines.generation.cascade import known_tracks, require_tracks_of, tracks_drawn_apart
from tokenreel.pipelines.generation.encode_controls import encode_given_controls
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.controls.controls import Controls

_FLAGS = {"class": "--class", "state": "--states", "sound": "--sound"}  # by type of control


@dataclass(frozen=True)
class ControlFlags:
    """As they were typed; None, or empty, where left out."""

    controls: str | None = None  # folder or repository that fit-controls wrote
    class_name: str | None = None
    states: Path | None = None
    sound: Path | None = None
    track: Sequence[tuple[str, str]] = ()  # name of a control of any type; a file, or a class's name

    def __bool__(self) -> bool:
        """Whether anything is given."""
        return bool(self.by_type or self.track)

    @property
    def by_type(self) -> dict[str, str]:
        """What is given to the one control of a type."""
        said = {"class": self.class_name, "state": self.states, "sound": self.sound}
        return {kind: str(value) for kind, value in said.items() if value is not None}


def codes_of_flags(
    priors: Sequence[Prior],
    spec: TokenSpec,
    flags: ControlFlags,
    frames: int,
    prime: int,
    frame_rate: float | None = None,
) -> dict[str, Tensor]:
    """int64 [1, t, h, w, q] by track, for a video of `frames` frames by a tokenizer of `spec`; of a track that a prior
    draws by itself, for the `prime` frames that are given. `frame_rate`: of these, in frames a second, where known.

    Raises ConfigError where no control, or not just one, is meant, and where the priors were trained without it or
    with another one; DataError where what is given does not fit it.
    """
    if not flags and flags.controls is not None:
        raise ConfigError(
            f"--controls {flags.controls} does nothing by itself: give --class, --states, --sound or --track as well, "
            "or leave it out"
        )
    if not flags:
        return {}
    if flags.controls is None:
        raise ConfigError(
            f"{_typed(flags)} needs --controls, the folder that fit-controls wrote: it says which codes are meant"
        )
    controls = Controls.from_pretrained(flags.controls)
    given = _by_name(controls, flags)
    require_controls(priors, list(given))
    _require_trained_with(priors, controls.added_to(spec), list(given), flags.controls)
    for name in given:
        _require_rate(name, controls.encoder(name).need, frame_rate)
    apart = tracks_drawn_apart(priors)
    return encode_given_controls(controls, given, {name: prime if name in apart else frames for name in given})


def require_controls(priors: Sequence[Prior], names: Sequence[str]) -> None:
    """Raises ConfigError unless some prior was trained with each of the named controls, the end frame being `end`."""
    known = known_tracks(priors)
    for name in names:
        if name not in known:
            raise ConfigError(f"the control {name!r} steers nothing: this prior knows {', '.join(known) or 'none'}")


def _require_rate(name: str, need: ControlSource, frame_rate: float | None) -> None:
    """A sound would run away from frames at another rate."""
    if not isinstance(need, SoundSource) or frame_rate is None:
        return
    if abs(frame_rate - need.frame_rate) > RATE_TOLERANCE * need.frame_rate:
        raise DataError(
            f"control {name!r} is fitted for {need.frame_rate:.4g} frames a second, and the frames come at "
            f"{frame_rate:.4g}: give a --video of that rate, or fit the controls for this one"
        )


def _typed(flags: ControlFlags) -> str:
    """The first of the flags that steer, as it was typed."""
    by_type = [f"{_FLAGS[kind]} {said}" for kind, said in flags.by_type.items()]
    return [*by_type, *(f"--track {name}={said}" for name, said in flags.track)][0]


def _by_name(controls: Controls, flags: ControlFlags) -> dict[str, str]:
    """What is given for each control."""
    pairs = [(_one_of_type(controls, kind, said), said) for kind, said in flags.by_type.items()] + [*flags.track]
    given = dict(pairs)
    for name, said in pairs:
        controls.encoder(name)
        if given[name] != said:
            raise ConfigError(f"the control {name!r} is given twice, as {said} and as {given[name]}: give it once")
    return given


def _one_of_type(controls: Controls, kind: str, said: str) -> str:
    """The name of the control of that type. Raises ConfigError unless there is just one."""
    types = {name: controls.encoder(name).config.type for name in controls.names}
    names = [name for name in types if types[name] == kind]
    if not names:
        raise ConfigError(
            f"{_FLAGS[kind]} {said} needs a control of the type {kind!r}; --controls has "
            f"{', '.join(f'{name} ({types[name]})' for name in types)}"
        )
    if len(names) > 1:
        raise ConfigError(
            f"{_FLAGS[kind]} {said} may mean {' or '.join(names)}: say which, as in --track {names[0]}={said}"
        )
    return names[0]


def _require_trained_with(priors: Sequence[Prior], spec: TokenSpec, names: Sequence[str], controls: str) -> None:
    for prior in priors:
        try:
            require_tracks_of(prior, spec, names)
        except ConfigError as error:
            raise ConfigError(
                f"--controls {controls} are not those that the prior was trained with: {error}"
            ) from error
