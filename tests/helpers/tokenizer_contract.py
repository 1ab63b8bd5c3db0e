"""The truths that every tokenizer keeps, one function each. They know the contract of `tokenizers/base.py`, no model.

A tokenizer's test file builds a small one whose codes are not all equal, and calls `check_contract`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from tokenreel.config import to_mapping
from tokenreel.data.spec import StreamSpec
from tokenreel.tokenizers.base import Tokens, VideoTokenizer, build_tokenizer
from tokenreel.tokenizers.quantizers.fsq import FSQConfig
from tokenreel.tokenizers.quantizers.lfq import LFQConfig
from tokenreel.tokenizers.quantizers.vq import VQConfig

QUANTIZERS = (VQConfig, FSQConfig, LFQConfig)


def check_contract(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """`video` [B, 3, T, H, W] in [-1, 1]: at least two clips, not constant."""
    tokenizer.freeze()
    check_codes_fit_the_spec(tokenizer, video)
    check_decoding_is_the_second_half_of_forward(tokenizer, video)
    check_deterministic(tokenizer, video)
    check_no_leak_across_clips(tokenizer, video)
    check_time(tokenizer, video)
    check_code_fingerprint(tokenizer)
    check_code_settings(tokenizer, video)


def check_codes_fit_the_spec(tokenizer: VideoTokenizer, video: Tensor) -> None:
    tokens = tokenizer.encode(video)
    assert list(tokens) == [stream.name for stream in tokenizer.spec.streams if stream.name in tokens]
    assert set(tokens) >= {level.name for level in tokenizer.spec.levels}
    for name, codes in tokens.items():
        stream = tokenizer.spec.stream(name)
        assert codes.dtype == torch.int64
        assert codes.shape == (len(video), *stream.shape)
        assert 0 <= codes.min() < codes.max() < stream.codes, "the example has to use more than one code"


def check_decoding_is_the_second_half_of_forward(tokenizer: VideoTokenizer, video: Tensor) -> None:
    decoded = tokenizer.decode(tokenizer.encode(video))
    assert decoded.shape == video.shape
    assert decoded.abs().max() <= 1
    torch.testing.assert_close(decoded, tokenizer(video).video, rtol=0, atol=1e-5)  # x + (e - x) rounds


def check_deterministic(tokenizer: VideoTokenizer, video: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    first, pixels = tokenizer.encode(video), tokenizer.decode(tokenizer.encode(video))
    tokenizer.encode(video.flip(0))
    tokenizer(video)
    _assert_same(first, tokenizer.encode(video))
    assert torch.equal(pixels, tokenizer.decode(first))
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(before[name], tensor), f"{name} moved in evaluation mode"


def check_no_leak_across_clips(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """A clip's codes and pixels do not depend on its neighbours in the batch, nor on their number."""
    tokens = tokenizer.encode(video)
    alone = {name: torch.cat([tokenizer.encode(clip[None])[name] for clip in video]) for name in tokens}
    _assert_same(tokens, alone)
    pixels = tokenizer.decode(tokens)
    one = tokenizer.decode({name: codes[:1] for name, codes in tokens.items()})
    torch.testing.assert_close(one, pixels[:1], rtol=0, atol=1e-5)


def check_time(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """`spec.time` holds as declared: a frame's pixels reach its own code step, and others only where they may."""
    spec, tokens = tokenizer.spec, tokenizer.encode(video)
    for frame in range(spec.frames):
        changed = video.clone()
        changed[:, :, frame] = -changed[:, :, frame]
        other = tokenizer.encode(changed)
        for stream in spec.levels:
            moved = (tokens[stream.name] != other[stream.name]).flatten(2).any(2).any(0)  # [t]
            own = next(step for step in range(stream.grid[0]) if frame in spec.frames_of_step(step, stream))
            assert moved[own], f"{stream.name}: frame {frame} does not reach its own code step {own}"
            for step in _blind_steps(spec.time, stream, own):
                assert not moved[step], f"{stream.name}: frame {frame} reaches code step {step} ({spec.time})"


def _blind_steps(time: str, stream: StreamSpec, own: int) -> list[int]:
    """The code steps that a frame of code step `own` must not reach."""
    steps = range(stream.grid[0])
    return {"framewise": [s for s in steps if s != own], "causal": [s for s in steps if s < own], "window": []}[time]


def check_code_fingerprint(tokenizer: VideoTokenizer) -> None:
    """It changes with the encoder, the quantizer and the preprocessing, and with nothing else."""
    codes, weights = tokenizer.code_fingerprint, tokenizer.weights_fingerprint
    for name, tensor in tokenizer.state_dict().items():
        saved = tensor.clone()
        tensor.copy_(~saved if tensor.dtype == torch.bool else saved + 1)
        in_codes = name.split(".")[0] in tokenizer.code_modules
        assert (tokenizer.code_fingerprint != codes) == in_codes, name
        assert tokenizer.weights_fingerprint != weights, name
        tensor.copy_(saved)
    assert (tokenizer.code_fingerprint, tokenizer.weights_fingerprint) == (codes, weights)
    framing = tokenizer.spec.framing
    for other in (dataclasses.replace(framing, crop="none"), dataclasses.replace(framing, resize="nearest")):
        twin = build_tokenizer(tokenizer.to_document()["config"], tokenizer.spec.frames, other)
        twin.load_state_dict(tokenizer.state_dict())
        assert twin.code_fingerprint != codes


def check_code_settings(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """Settings that are not among `code_settings` change neither codes nor their fingerprint, but the release's; the
    others change both.
    """
    config, codes, weights = tokenizer.config, tokenizer.code_fingerprint, tokenizer.weights_fingerprint
    tokens, changes = tokenizer.encode(video), list(_changes(config, tokenizer.code_settings))
    assert {in_codes for _, in_codes in changes} == {True, False} or isinstance(config.quantizer, FSQConfig)
    for changed, in_codes in changes:
        tokenizer.config = changed
        assert (tokenizer.code_fingerprint != codes) == in_codes, changed
        assert tokenizer.weights_fingerprint != weights, changed
        if not in_codes:
            _assert_same(tokens, _built_otherwise(tokenizer, changed).encode(video))
    tokenizer.config = config


def _changes(config: Any, names: Collection[str]) -> Iterator[tuple[Any, bool]]:
    """`config` with one setting changed at a time, and whether the codes depend on it."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, QUANTIZERS):
            for inner, in_codes in _changes(value, value.code_settings):
                yield dataclasses.replace(config, **{field.name: inner}), in_codes and field.name in names
        elif value is not None:
            yield dataclasses.replace(config, **{field.name: _another(value)}), field.name in names


def _another(value: Any) -> Any:
    """Of the same type, or None for a part that may be left out."""
    if isinstance(value, tuple):
        return tuple(2 * size for size in value)
    if isinstance(value, bool | int | float):
        return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2 + 0.1
    return ("data" if value == "uniform" else "uniform") if isinstance(value, str) else None


def _built_otherwise(tokenizer: VideoTokenizer, config: Any) -> VideoTokenizer:
    """Another one of that configuration, with the same weights where codes come from."""
    twin = build_tokenizer(to_mapping(config), tokenizer.spec.frames, tokenizer.spec.framing)
    weights = {k: v for k, v in tokenizer.state_dict().items() if k.split(".")[0] in tokenizer.code_modules}
    assert not twin.load_state_dict(weights, strict=False).unexpected_keys
    return twin.freeze()


def _assert_same(tokens: Tokens, other: Tokens) -> None:
    for name in tokens:
        assert torch.equal(tokens[name], other[name]), name
