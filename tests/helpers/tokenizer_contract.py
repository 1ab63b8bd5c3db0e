"""The truths that every tokenizer keeps, one function each. They know the contract of `tokenizers/base.py`, no model.

A tokenizer's test file builds a small one whose codes are not all equal, and calls `check_contract`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tokenreel.data.spec import StreamSpec
from tokenreel.tokenizers.base import Tokens, VideoTokenizer, build_tokenizer


def check_contract(tokenizer: VideoTokenizer, video: Tensor) -> None:
    """`video` [B, 3, T, H, W] in [-1, 1]: at least two clips, not constant."""
    tokenizer.freeze()
    check_codes_fit_the_spec(tokenizer, video)
    check_decoding_is_the_second_half_of_forward(tokenizer, video)
    check_deterministic(tokenizer, video)
    check_no_leak_across_clips(tokenizer, video)
    check_time(tokenizer, video)
    check_code_fingerprint(tokenizer)


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


def _assert_same(tokens: Tokens, other: Tokens) -> None:
    for name in tokens:
        assert torch.equal(tokens[name], other[name]), name
