"""Controls as a person gives them, as in `--class sweep --states arm.csv` -> tokens by control stream."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tokenreel.data.controls.inputs import ControlSource, SoundSource
from tokenreel.data.decoding.control_inputs import RATE_TOLERANCE
from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError, DataError
from tokenreel.pipelines.generation.cascade import sampled_controls
from tokenreel.pipelines.generation.encode_controls import encode_given_controls
from tokenreel.pipelines.generation.given_tokens import require_controls, require_same_controls
from tokenreel.pipelines.requests.generation import ControlInputs
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.controls.controls import Controls

_FLAGS = {"class": "--class", "state": "--states", "sound": "--sound"}  # by type of control


def encode_control_inputs(
    priors: Sequence[Prior],
    spec: TokenSpec,
    inputs: ControlInputs,
    frames: int,
    given_frames: int,
    frame_rate: float | None = None,
) -> dict[str, Tensor]:
    """int64 [1, t, h, w, q] by control stream, for a video of `frames` frames by a tokenizer of `spec`; a control that
    a control prior samples is given for the `given_frames` alone. `frame_rate`: frames per second of these, if known.

    Raises ConfigError where no control, or not just one, is meant, and where the priors were trained without it or with
    another one; DataError where an input does not fit its control.
    """
    if not (_by_type(inputs) or inputs.control):
        if inputs.controls is not None:
            raise ConfigError(
                f"--controls {inputs.controls} has no effect on its own: give --class, --states, --sound or --control "
                "as well, or omit it"
            )
        return {}
    if inputs.controls is None:
        raise ConfigError(f"{_first_flag(inputs)} needs --controls, the folder that fit-controls wrote")
    controls = Controls.from_pretrained(inputs.controls)
    given = _by_name(controls, inputs)
    require_controls(priors, given)
    _require_trained_with(priors, controls.added_to(spec), list(given), inputs.controls)
    for name in given:
        _require_rate(name, controls.encoder(name).source, frame_rate)
    sampled = sampled_controls(priors)
    return encode_given_controls(controls, given, {name: given_frames if name in sampled else frames for name in given})


def _by_type(inputs: ControlInputs) -> dict[str, str]:
    """By type of control, of which there must then be just one, what is given for it."""
    values = {"class": inputs.class_name, "state": inputs.states, "sound": inputs.sound}
    return {kind: str(value) for kind, value in values.items() if value is not None}


def _require_rate(name: str, need: ControlSource, frame_rate: float | None) -> None:
    """A sound drifts away from frames at another rate."""
    if not isinstance(need, SoundSource) or frame_rate is None:
        return
    if abs(frame_rate - need.frame_rate) > RATE_TOLERANCE * need.frame_rate:
        raise DataError(
            f"control {name!r} was fitted for {need.frame_rate:.4g} frames per second, but --video has "
            f"{frame_rate:.4g}: give a video of that rate, or fit the controls for this one"
        )


def _first_flag(inputs: ControlInputs) -> str:
    """The first control that is given, as on the command line."""
    by_type = [f"{_FLAGS[kind]} {value}" for kind, value in _by_type(inputs).items()]
    return [*by_type, *(f"--control {name}={value}" for name, value in inputs.control.items())][0]


def _by_name(controls: Controls, inputs: ControlInputs) -> dict[str, str]:
    """What is given for each control."""
    pairs = [(_one_of_type(controls, kind, value), value) for kind, value in _by_type(inputs).items()]
    pairs += inputs.control.items()
    given = dict(pairs)
    for name, value in pairs:
        controls.encoder(name)
        if given[name] != value:
            raise ConfigError(f"the control {name!r} is given twice, as {value} and as {given[name]}: give it once")
    return given


def _one_of_type(controls: Controls, kind: str, value: str) -> str:
    """The name of the control of that type. Raises ConfigError unless there is just one."""
    types = {name: controls.encoder(name).config.type for name in controls.names}
    names = [name for name in types if types[name] == kind]
    if not names:
        raise ConfigError(
            f"{_FLAGS[kind]} {value} needs a control of type {kind!r}; --controls has "
            f"{', '.join(f'{name} ({types[name]})' for name in types)}"
        )
    if len(names) > 1:
        raise ConfigError(f"{_FLAGS[kind]} {value} may mean {' or '.join(names)}: use --control {names[0]}={value}")
    return names[0]


def _require_trained_with(priors: Sequence[Prior], spec: TokenSpec, names: Sequence[str], controls: str) -> None:
    for prior in priors:
        try:
            require_same_controls(prior, spec, names)
        except ConfigError as error:
            raise ConfigError(f"--controls {controls} differ from those of the prior: {error}") from error
