"""Checks of the contract of `tokenizers/base.py`, one function each, for any tokenizer.

A tokenizer's test file builds a small one whose tokens are not all equal, and calls `check_contract`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import typing
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import Tokens, VideoTokenizer
from tokenreel.tokenizers.quantizers.base import Quantizer


def spread_codes(tokenizer: VideoTokenizer) -> VideoTokenizer:
    """`tokenizer` itself, with larger weights in its submodule `encoder`: with PyTorch's initial weights latents are so
    small that nearly all tokens are the same.
    """
    for layer in tokenizer.get_submodule("encoder").modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d | nn.Linear):
            nn.init.orthogonal_(layer.weight, gain=2.0)
    return tokenizer


def check_contract(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """`video` [B, 3, T, H, W] in [-1, 1]: at least two clips, not constant."""
    tokenizer.freeze()
    check_tokens_fit_the_spec(tokenizer, video)
    check_decoding_is_the_second_half_of_forward(tokenizer, video)
    check_deterministic(tokenizer, video)
    check_saved_state(tokenizer, video)
    check_no_leak_across_clips(tokenizer, video)
    check_training_pass(tokenizer, video)
    check_training_steps(tokenizer, video)
    check_quantizers(tokenizer, video)
    check_time(tokenizer, video)
    check_lengths(tokenizer, video)
    check_code_fingerprint(tokenizer, video)
    check_code_settings(tokenizer, video)


def check_tokens_fit_the_spec(tokenizer: VideoTokenizer, video: Tensor) -> None:
    tokens, names = tokenizer.encode(video), [stream.name for stream in tokenizer.spec.streams]
    assert list(tokens) == [name for name in names if name in tokens], (
        f"encode: streams {list(tokens)} must be among the spec's, in its order: {names}"
    )
    for level in tokenizer.spec.levels:
        assert level.name in tokens, f"encode: returns no tokens of level {level.name!r}"
    for name, indices in tokens.items():
        stream = tokenizer.spec.stream(name)
        shape = (len(video), *stream.shape)
        assert indices.dtype == torch.int64, f"encode: tokens of {name!r} are {indices.dtype}, expected int64"
        assert indices.shape == shape, f"encode: tokens of {name!r} have shape {tuple(indices.shape)}, expected {shape}"
        low, high = int(indices.min()), int(indices.max())
        assert low >= 0, f"encode: {name!r} has token {low}, below 0"
        assert high < stream.codebook_size, (
            f"encode: {name!r} has token {high}, but codebook_size is {stream.codebook_size}"
        )
        assert low < high, f"encode: all tokens of {name!r} are {low}; the test's tokenizer must use more than one"


def check_decoding_is_the_second_half_of_forward(tokenizer: VideoTokenizer, video: Tensor) -> None:
    decoded = tokenizer.decode(tokenizer.encode(video))
    assert decoded.shape == video.shape, f"decode: shape {tuple(decoded.shape)}, expected {tuple(video.shape)}"
    assert decoded.abs().max() <= 1, f"decode: pixels reach {decoded.abs().max():.3g}, outside [-1, 1]"
    trained = tokenizer(video).video.clamp(-1, 1)  # training losses may use values outside of [-1, 1]
    # close, not equal: x + (e - x), the straight-through estimator, rounds
    _assert_close(decoded, trained, "decode: differs from the video of forward in evaluation mode")


def check_deterministic(tokenizer: VideoTokenizer, video: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    given = video.clone()
    first, pixels = tokenizer.encode(video), tokenizer.decode(tokenizer.encode(video))
    tokenizer.encode(video.flip(0))
    tokenizer(video)
    assert torch.equal(video, given), "encode or forward: changes the video that it is given"
    changed = _changed_streams(first, tokenizer.encode(video))
    assert not changed, f"encode: tokens of {changed} differ between calls"
    assert torch.equal(pixels, tokenizer.decode(first)), "decode: pixels differ between calls"
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(before[name], tensor), f"encode, decode or forward: changes {name} in evaluation mode"


def check_saved_state(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """Another tokenizer of the same configuration, with the same state dict, gives the same: nothing else is saved."""
    twin, tokens = _rebuilt(tokenizer, tokenizer.spec.framing), tokenizer.encode(video)
    assert twin.fingerprints() == tokenizer.fingerprints(), "fingerprints: differ with the same configuration and state"
    changed = _changed_streams(tokens, twin.encode(video))
    assert not changed, f"encode: tokens of {changed} depend on something that is not in the state dict"
    message = "decode: pixels depend on something that is not in the state dict"
    _assert_close(twin.decode(tokens), tokenizer.decode(tokens), message)


def check_no_leak_across_clips(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """A clip's tokens and pixels do not depend on the other clips of the batch, nor on their number."""
    tokens = tokenizer.encode(video)
    alone = {name: torch.cat([tokenizer.encode(clip[None])[name] for clip in video]) for name in tokens}
    changed = _changed_streams(tokens, alone)
    assert not changed, f"encode: tokens of {changed} depend on the other clips of the batch"
    clips = [{name: indices[i : i + 1] for name, indices in tokens.items()} for i in range(len(video))]
    pixels = torch.cat([tokenizer.decode(clip) for clip in clips])
    _assert_close(pixels, tokenizer.decode(tokens), "decode: pixels depend on the other clips of the batch")


def check_training_pass(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """Losses are finite scalars, codes are counted right, and the decoded frames have a gradient to the true ones: the
    encoder learns through the quantizer.
    """
    tokens, pixels = tokenizer.encode(video), video.clone().requires_grad_()
    output = tokenizer(pixels)
    for name, loss in output.losses.items():
        assert loss.shape == (), f"forward: loss {name!r} has shape {tuple(loss.shape)}, expected a scalar"
        assert loss.isfinite(), f"forward: loss {name!r} is {loss}"
    for name, found in output.code_counts.items():
        assert name in tokens, f"forward: code_counts has {name!r}, expected names of streams, of {list(tokens)}"
        size = tokenizer.spec.stream(name).codebook_size
        counts = torch.stack([q.flatten().bincount(minlength=size) for q in tokens[name].unbind(-1)])
        assert torch.equal(found, counts), f"forward: code_counts of {name!r} are not those of the tokens of encode"
    assert output.video.requires_grad, "forward: the decoded video has no gradient to the encoder's input"
    (gradient,) = torch.autograd.grad(output.video.square().sum(), pixels)
    reached = (gradient != 0).flatten(3).any(3).any(1)  # [B, T]
    assert reached.all(), "forward: the decoded video has no gradient to some frames of the encoder's input"


def check_training_steps(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """Two steps in training mode: gradients are finite, and what moves in place (a codebook) is not what they need."""
    trained = copy.deepcopy(tokenizer).train().requires_grad_()
    for _ in range(2):
        output = trained(video)
        total = torch.stack([output.video.square().mean(), *output.losses.values()]).sum()
        try:
            total.backward()
        except RuntimeError as error:
            raise AssertionError(f"forward: has no backward pass in training mode: {error}") from error
    for name, parameter in trained.named_parameters():
        finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        assert finite, f"forward: the gradient of {name} is not finite in training mode"


def check_quantizers(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """The contract of `tokenizers/quantizers/base.py`, on the latents that the tokenizer quantizes."""
    for quantizer, latents in _quantized(tokenizer, video).items():
        output = quantizer(latents.requires_grad_())
        indices = quantizer.encode(latents)
        assert torch.equal(output.indices, indices), "train_rows: its indices are not those of encode_rows"
        message = "train_rows: its rows are not those of decode_rows for the same indices"
        _assert_close(output.latents, quantizer.decode(indices), message)
        assert output.latents.requires_grad, "train_rows: no straight-through gradient"
        (gradient,) = torch.autograd.grad(output.latents.square().sum(), latents)
        missing = (gradient == 0).transpose(0, 1).flatten(1).all(1).nonzero().flatten().tolist()
        assert not missing, f"train_rows: no straight-through gradient to channels {missing}"


def _quantized(tokenizer: VideoTokenizer, video: Tensor) -> dict[Quantizer, Tensor]:
    """The latents that each quantizer is given in `forward`."""
    latents = dict[Quantizer, Tensor]()

    def record(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        latents[typing.cast(Quantizer, module)] = arguments[0].detach()

    quantizers = [module for module in tokenizer.modules() if isinstance(module, Quantizer)]
    hooks = [quantizer.register_forward_pre_hook(record) for quantizer in quantizers]
    tokenizer(video)
    for hook in hooks:
        hook.remove()
    return latents


def check_time(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """`spec.time` holds: a frame's pixels affect its own code step, and others only if they may."""
    spec, tokens = tokenizer.spec, tokenizer.encode(video)
    for frame in range(spec.frames):
        changed = video.clone()
        changed[:, :, frame] = -changed[:, :, frame]
        other = tokenizer.encode(changed)
        for stream in spec.levels:
            affected = (tokens[stream.name] != other[stream.name]).flatten(2).any(2).any(0)  # [t]
            own = next(step for step in range(stream.grid[0]) if frame in spec.frames_of_step(step, stream))
            assert affected[own], f"encode: frame {frame} does not affect its own code step {own} of {stream.name!r}"
            for step in _independent_steps(spec.time, stream, own):
                assert not affected[step], (
                    f"encode: frame {frame} affects code step {step} of {stream.name!r}, but spec.time is {spec.time!r}"
                )


def _independent_steps(time: str, stream: StreamSpec, own: int) -> list[int]:
    """The code steps that a frame of code step `own` must not affect."""
    steps = range(stream.grid[0])
    return {"framewise": [s for s in steps if s != own], "causal": [s for s in steps if s < own], "window": []}[time]


def check_lengths(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """The longest shorter clip that fills complete code steps has their number of tokens, and those of the first steps
    if no token depends on later frames; its tokens decode to its frames.
    """
    spec, tokens = tokenizer.spec, tokenizer.encode(video)
    frames = max(_shorter_lengths(spec), default=0)
    if not frames:
        return
    first = tokenizer.encode(video[:, :, :frames])
    for stream in spec.levels:
        steps = spec.steps_of_frames(frames, stream)
        shape = (len(video), steps, *stream.shape[1:])
        assert first[stream.name].shape == shape, (
            f"encode: tokens of {stream.name!r} have shape {tuple(first[stream.name].shape)} for {frames} frames, "
            f"expected {shape}"
        )
        assert spec.time == "window" or torch.equal(first[stream.name], tokens[stream.name][:, :steps]), (
            f"encode: tokens of {stream.name!r} depend on the number of frames, but spec.time is {spec.time!r}"
        )
    decoded = tokenizer.decode(first).shape
    assert decoded == video[:, :, :frames].shape, f"decode: shape {tuple(decoded)} from the tokens of {frames} frames"


def _shorter_lengths(spec: TokenSpec) -> Iterator[int]:
    """Numbers of frames, fewer than a clip has, that fill complete code steps and include those encoded alone."""
    for frames in range(max(spec.frames_encoded_alone, 1), spec.frames):
        with contextlib.suppress(ConfigError):
            for stream in spec.levels:
                spec.steps_of_frames(frames, stream)
            yield frames


def check_code_fingerprint(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """Perturbs each tensor of the state dict: the code fingerprint changes if tokens do, and neither changes with what
    is listed as decode-only. The framing is fingerprinted too.
    """
    _check_tensors(tokenizer, video)
    framing = tokenizer.spec.framing
    for other in (dataclasses.replace(framing, crop="none"), dataclasses.replace(framing, resize="nearest")):
        twin = _rebuilt(tokenizer, other)
        assert twin.code_fingerprint != tokenizer.code_fingerprint, f"code_fingerprint: is the same for {other}"


def _check_tensors(tokenizer: VideoTokenizer, video: Tensor) -> None:
    before, tokens, listed = tokenizer.fingerprints(), tokenizer.encode(video), tokenizer.decode_only_modules
    state, generator = tokenizer.state_dict(), torch.Generator().manual_seed(19)
    for name in listed:
        assert name in state or name in dict(tokenizer.named_modules()), (
            f"decode_only_modules: there is no submodule or tensor {name!r}"
        )
    used = dict.fromkeys((name.split(".")[0] for name in state if not _is_below(name, listed)), False)
    for name, tensor in state.items():
        saved = tensor.clone()
        tensor.copy_(_perturbed(saved, generator))
        changed, after = _changed_streams(tokens, tokenizer.encode(video)), tokenizer.fingerprints()
        tensor.copy_(saved)
        _check_perturbed(name, _is_below(name, listed), changed, before, after)
        if changed:
            used[name.split(".")[0]] = True
    assert tokenizer.fingerprints() == before, "fingerprints: differ between calls"
    for child, is_used in used.items():
        assert is_used, (
            f"decode_only_modules: no token depends on {child!r}: list it, so that caches stay valid when it changes"
        )


def _check_perturbed(
    name: str, listed: bool, changed: list[str], before: dict[str, str], after: dict[str, str]
) -> None:
    """`before` and `after` are the fingerprints around a change of the tensor `name`."""
    assert after["weights"] != before["weights"], f"weights_fingerprint: does not change with {name}"
    if listed:
        assert not changed, f"decode_only_modules: {name} is listed, but tokens of {changed} depend on it"
        assert after["codes"] == before["codes"], f"code_fingerprint: changes with {name}, which is listed decode-only"
    assert not changed or after["codes"] != before["codes"], (
        f"code_fingerprint: does not change with {name}, but tokens of {changed} do"
    )


def _is_below(name: str, modules: Collection[str]) -> bool:
    """Whether the tensor `name` is one of `modules` or belongs to one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _perturbed(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Changed by much more than its own magnitude, so that everything that depends on it changes."""
    if tensor.is_floating_point():
        return tensor + 3 * (1 + tensor.abs().max()) * torch.randn(tensor.shape, generator=generator)
    return ~tensor if tensor.dtype == torch.bool else tensor + 1


def check_code_settings(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """Decode-only settings change neither the tokens for the same weights nor the code fingerprint, but the weights
    fingerprint; all others change both fingerprints.
    """
    config, before, tokens = tokenizer.config, tokenizer.fingerprints(), tokenizer.encode(video)
    assert not hasattr(tokenizer, "decode_only_settings"), (
        f"decode_only_settings: is a class variable of {type(config).__name__}, not of {type(tokenizer).__name__}"
    )
    for name, changed, decode_only in _changes(config):
        tokenizer.config = changed
        after = tokenizer.fingerprints()
        tokenizer.config = config
        assert after["weights"] != before["weights"], f"weights_fingerprint: does not change with the setting {name}"
        assert (after["codes"] == before["codes"]) == decode_only, (
            f"code_fingerprint: {'changes' if decode_only else 'does not change'} with the setting {name}, which is "
            f"{'' if decode_only else 'not '}listed decode-only"
        )
        if decode_only:
            streams = _changed_streams(tokens, _rebuilt_with(tokenizer, name, changed).encode(video))
            assert not streams, f"decode_only_settings: {name} is listed, but tokens of {streams} depend on it"


def _changes(config: Any, path: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Yields the name of a setting, `config` with another value of it, and whether it is listed as decode-only; the
    settings of a required nested configuration (a quantizer's) are changed one by one.
    """
    hints, decode_only = typing.get_type_hints(type(config)), getattr(config, "decode_only_settings", ())
    for name in (field.name for field in dataclasses.fields(config)):
        value, listed = getattr(config, name), name in decode_only
        optional = type(None) in typing.get_args(hints[name])
        if dataclasses.is_dataclass(value) and not optional:
            for dotted, changed, inner_listed in _changes(value, f"{path}{name}."):
                yield dotted, dataclasses.replace(config, **{name: changed}), listed or inner_listed
        elif value is not None:
            yield f"{path}{name}", _with_another_value(config, name, hints[name]), listed


def _with_another_value(config: Any, name: str, hint: Any) -> Any:
    """`config` with the first other value that passes its checks."""
    for value in _other_values(hint, getattr(config, name)):
        try:
            return dataclasses.replace(config, **{name: value})
        except ConfigError:
            continue
    raise AssertionError(
        f"{type(config).__name__}.{name}: no other value that is tried is valid beside the other settings; give the "
        "tested tokenizer settings that leave room, or restrict the values by Literal"
    )


def _other_values(hint: Any, value: Any) -> list[Any]:
    if dataclasses.is_dataclass(value):
        return [None]
    if typing.get_origin(hint) is typing.Literal:
        return [other for other in typing.get_args(hint) if other != value]
    if isinstance(value, tuple):
        return [tuple(2 * size for size in value), tuple(size + 1 for size in value)]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value, value // 2]
    return [value / 2 + 0.1, value / 2] if isinstance(value, float) else []


def _new(tokenizer: VideoTokenizer, config: Any, framing: Framing) -> VideoTokenizer:
    member: Any = type(tokenizer)  # members take other arguments than the base class
    built: VideoTokenizer = member(config, tokenizer.spec.frames, framing)
    return built


def _rebuilt(tokenizer: VideoTokenizer, framing: Framing) -> VideoTokenizer:
    """A tokenizer for this framing with the same configuration and state dict."""
    twin = _new(tokenizer, tokenizer.config, framing)
    twin.load_state_dict(tokenizer.state_dict())
    return twin.freeze()


def _rebuilt_with(tokenizer: VideoTokenizer, name: str, config: Any) -> VideoTokenizer:
    """A tokenizer of `config`, which differs in the setting `name`, with the same weights except decode-only ones."""
    twin, listed = _new(tokenizer, config, tokenizer.spec.framing), tokenizer.decode_only_modules
    weights = {key: tensor for key, tensor in tokenizer.state_dict().items() if not _is_below(key, listed)}
    try:
        missing, unexpected = twin.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # another shape
        raise AssertionError(
            f"decode_only_settings: {name} is listed, but changes tensors used by encode: {error}"
        ) from error
    others = [*unexpected, *(key for key in missing if not _is_below(key, listed))]
    assert not others, f"decode_only_settings: {name} is listed, but adds or removes tensors used by encode: {others}"
    return twin.freeze()


def _changed_streams(tokens: Tokens, other: Tokens) -> list[str]:
    return [name for name in tokens if not torch.equal(tokens[name], other[name])]


def _assert_close(found: Tensor, expected: Tensor, message: str) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=lambda text: f"{message}. {text}")
