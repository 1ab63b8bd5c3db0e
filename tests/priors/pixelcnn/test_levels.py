"""The two PixelCNN priors: the contract of all priors, what they depend on, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.counter_rng import uniforms
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import build_prior
from tokenreel.priors.pixelcnn.config import BottomPixelCNNConfig, TopPixelCNNConfig
from tokenreel.priors.pixelcnn.levels import BottomPixelCNN, TopPixelCNN
from tokenreel.priors.pixelcnn.prior import PixelCNN
from tokenreel.priors.sampling.logits import SamplingConfig, invert_cdf
from tokenreel.priors.sampling.video import sample
from tokenreel.sample_random import SampleRandom
from tokenreel.testing.prior_sampling import check_sample_frequencies
from tokenreel.testing.priors import (
    check_contract,
    check_normalised,
    check_step_computes_one_position,
    random_given,
    random_tokens,
    scramble,
)

SCALE = 0.1  # of the noise on the weights: with more, attention attends to one location only
SIZES = {
    "embedding": 5,
    "hidden": 14,
    "residual": 10,
    "layers": 3,
    "heads": 2,
    "kernel": 3,
    "condition_hidden": 6,
    "condition_residual": 3,
    "condition_blocks": 2,
    "attention_every": 2,
}
PRIORS = {"top": (TopPixelCNN, TopPixelCNNConfig), "bottom": (BottomPixelCNN, BottomPixelCNNConfig)}
GRIDS = {"top": (4, 2, 3), "bottom": (3, 1, 2)}  # of the top level: three steps of 2 x 3, four slices of 2 x 4


def two_levels(grid: tuple[int, int, int], codebook_sizes: tuple[int, int] = (5, 7), given: int = 1) -> TokenSpec:
    """The spec of a tokenizer of two levels, with `given` top steps of the given frames."""
    t, h, w = grid
    sizes = {"top": (codebook_sizes[0], 1), "bottom": (codebook_sizes[1], 2)}
    levels = [StreamSpec(name, (n * t, n * h, n * w), k, stride=4 // n) for name, (k, n) in sizes.items()]
    alone = [
        replace(level, name=f"{level.name}_given", role="control", grid=(given * 4 // level.stride, *level.grid[1:]))
        for level in levels
    ]
    return TokenSpec((*levels, *alone), 4 * t, Framing(8, 8), time="window")


def prior_of(level: str, spec: TokenSpec | None = None, **fields: Any) -> PixelCNN:
    torch.manual_seed(0)
    prior_class, config_class = PRIORS[level]
    return prior_class(config_class(**{**SIZES, **fields}), spec or two_levels(GRIDS[level]))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("level", PRIORS)
def test_contract(level: str, kernel: int) -> None:
    prior = scramble(prior_of(level, kernel=kernel), scale=SCALE)
    check_contract(prior, random_tokens(prior, 2), random_given(prior, 2, 0.3))


@pytest.mark.parametrize("level", PRIORS)
def test_samples_follow_its_probabilities(level: str) -> None:
    prior = scramble(prior_of(level, two_levels((2, 2, 3) if level == "top" else (2, 1, 1), (2, 2))), scale=SCALE)
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.2)
    check_normalised(prior, tokens, given)
    check_sample_frequencies(prior, tokens, given, speculate=2)


@pytest.mark.parametrize("level", PRIORS)
def test_a_new_token_computes_one_location(level: str) -> None:
    prior = scramble(prior_of(level, kernel=5))
    check_step_computes_one_position(prior, random_tokens(prior, 1), max_ratio=1.0)


@pytest.mark.parametrize(("level", "given"), [("top", 1), ("top", 2), ("bottom", 1), ("bottom", 2)])
def test_order_holds_the_steps_that_are_not_given(level: str, given: int) -> None:
    spec = two_levels((3, 2, 3), given=given)
    order = prior_of(level, spec).order()
    stream, first = spec.stream(level), given * 4 // spec.stream(level).stride
    expected = torch.cartesian_prod(*map(torch.arange, stream.shape))
    assert torch.equal(order[:, 1:], expected[expected[:, 0] >= first])
    assert (order[:, 0] == spec.streams.index(stream)).all()


@pytest.mark.parametrize("level", PRIORS)
def test_given_frames_condition_only_as_encoded_alone(level: str) -> None:
    """The first steps of a level depend on later frames, so they are not read. All other steps of `reads` are."""
    prior = scramble(prior_of(level, condition_hidden=22, condition_residual=11), scale=SCALE)
    assert prior.reads == (("top",) if level == "bottom" else ()) + ("top_given", "bottom_given")
    tokens, given = random_tokens(prior, 1), torch.zeros(1, len(prior.order()), dtype=torch.bool)
    base = prior.log_prob(tokens, given)
    for name, indices in tokens.items():
        known = name in prior.reads
        for step in range(indices.shape[1]):
            other = indices.clone()
            other[:, step] = (other[:, step] + 1) % prior.spec.stream(name).codebook_size
            changed = not torch.equal(prior.log_prob({**tokens, name: other}, given), base)
            if name == prior.predicts[0]:
                assert changed == (step >= prior.spec.stream(f"{name}_given").grid[0])
            else:
                assert changed == (known and (name != "top" or step > 0))


def test_a_slice_depends_on_four_slices_before_it() -> None:
    prior = scramble(prior_of("bottom", two_levels((5, 1, 1)), condition_hidden=22), scale=SCALE)
    tokens, given = random_tokens(prior, 1), torch.zeros(1, len(prior.order()), dtype=torch.bool)
    base = prior.log_prob(tokens, given).view(prior.slice_count, -1)
    for volume in range(prior.slice_count):
        other = tokens["bottom"].clone()
        other[:, 2 + volume] = (other[:, 2 + volume] + 1) % 7
        changed = prior.log_prob({**tokens, "bottom": other}, given).view(prior.slice_count, -1) != base
        dependent = changed.any(1).nonzero().flatten().tolist()
        assert dependent == list(range(volume, min(volume + 5, prior.slice_count)))


@pytest.mark.parametrize("level", PRIORS)
@pytest.mark.parametrize("speculate", [0, 5])
def test_cached_sampling_equals_recomputing_volumes(level: str, speculate: int) -> None:
    """Tokens sampled with the caches are those sampled with everything computed again for each token."""
    prior = scramble(prior_of(level, two_levels(GRIDS[level], (3, 3))), scale=SCALE)
    tokens, given = random_tokens(prior, 2), torch.zeros(2, len(prior.order()), dtype=torch.bool)
    ids = torch.arange(2)
    found = prior.flatten(sample(prior, tokens, given, SamplingConfig(speculate=speculate), seed=3, samples=ids).tokens)
    numbers = torch.from_numpy(uniforms(3, ids.numpy(), token_ids(prior).numpy()))
    flat = prior.flatten(tokens)
    for at in range(len(prior.order())):
        clips = [torch.where(torch.arange(len(flat[0])) == at, token, flat) for token in range(3)]
        with torch.no_grad():
            nats = [prior.log_prob({**tokens, **prior.unflatten(clip, tokens)}, given)[:, at] for clip in clips]
        flat[:, at] = invert_cdf(torch.stack(nats, -1).exp(), numbers[:, at])
    assert torch.equal(found, flat)


def token_ids(prior: PixelCNN) -> Tensor:
    """The id of the token at each position, which random numbers belong to: by stream, in raster order."""
    index, t, h, w, _ = prior.order().T
    _, rows, columns = prior.spec.stream(prior.predicts[0]).grid
    return index * 2**48 + (t * rows + h) * columns + w


def numbers(rows: int) -> SampleRandom:
    return SampleRandom(0, np.arange(rows), torch.device("cpu"))


@pytest.mark.parametrize("level", PRIORS)
def test_overfits_one_clip(level: str) -> None:
    prior = prior_of(level, condition_hidden=22, condition_residual=11)
    tokens, given = random_tokens(prior, 1), torch.zeros(1, len(prior.order()), dtype=torch.bool)
    batch, none = {name: codes.repeat_interleave(5, 0) for name, codes in tokens.items()}, given.expand(5, -1)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=3e-3)  # at 1e-2 the loss of the bottom prior fluctuates
    random = numbers(5)
    for _ in range(150):
        loss = prior.loss(batch, none, random)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in prior.parameters())
    with torch.no_grad():
        assert -prior.log_prob(tokens, given).sum() / (~given).sum() < 0.15  # nats; guessing costs at least 1.61


def test_a_step_trains_one_slice_of_each_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never one that is completely given; all others about equally often."""
    prior, chosen = prior_of("bottom"), []
    monkeypatch.setattr(
        prior, "slice_nats", lambda clips, index, _: chosen.append(index) or torch.ones(len(index), prior.slice_length)
    )
    tokens, given = random_tokens(prior, 331), torch.arange(len(prior.order())).expand(331, -1) < prior.slice_length
    assert prior.loss(tokens, given, numbers(331)) == 1
    assert torch.bincount(chosen[0]).tolist() == pytest.approx([0, 110, 110, 110], abs=30)


@pytest.mark.parametrize("level", PRIORS)
def test_bfloat16_is_close(level: str) -> None:
    """Sampling in bfloat16 weights, and training under autocast; the losses themselves are float32."""
    prior = scramble(prior_of(level), scale=SCALE)
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.3)
    exact, exact_loss = prior.start(tokens, given), prior.loss(tokens, given, numbers(2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = prior.loss(tokens, given, numbers(2))
        sample(prior, tokens, samples=torch.arange(2))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact_loss, atol=0.02, rtol=0)
    rounded = prior.to(torch.bfloat16).start(tokens, given)
    torch.testing.assert_close(rounded.log_probs, exact.log_probs, atol=0.05, rtol=0)


@pytest.mark.parametrize("level", PRIORS)
def test_size_of_the_papers_model(level: str) -> None:
    """Tables 4, 5 and 6 on the meta device: 32 x 32 x 3 tokens, and 64 x 64 for each of six slices."""
    table = {
        "top": {"layers": 40, "kernel": 3, "dropout": 0.5, "condition_hidden": 512, "condition_blocks": 4},
        "bottom": {"layers": 20, "kernel": 5, "condition_hidden": 1024, "condition_blocks": 20},
    }
    both = {"embedding": 64, "hidden": 512, "residual": 1024, "heads": 8, "condition_residual": 128}
    spec = two_levels((4, 32, 32), (512, 512))
    with torch.device("meta"):
        prior = build_prior({"type": f"pixelcnn-{level}", **both, **table[level]}, spec)
    assert isinstance(prior, PixelCNN)
    assert (prior.slice_count, prior.shape) == {"top": (1, (3, 32, 32)), "bottom": (6, (1, 64, 64))}[level]
    assert sum(layer.attention is not None for layer in prior.stack.layers) == {"top": 8, "bottom": 4}[level]
    millions = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
    assert millions == pytest.approx({"top": 316.2, "bottom": 425.0}[level], abs=0.1)


@pytest.mark.parametrize("missing", ["top", "bottom", "top_given", "bottom_given"])
@pytest.mark.parametrize("level", PRIORS)
def test_a_missing_stream_is_named_with_its_tokenizer(level: str, missing: str) -> None:
    spec = two_levels((3, 1, 2))
    spec = replace(spec, streams=tuple(stream for stream in spec.streams if stream.name != missing))
    with pytest.raises(ConfigError, match=rf"lack stream '{missing}'.*tokenizer of two levels"):
        prior_of(level, spec)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("bottom", {"grid": (6, 2, 5)}, "twice that of 'top'"),
        ("bottom", {"codebooks": 2}, "one codebook"),
        ("bottom_given", {"grid": (3, 2, 4)}, "twice that of 'top_given'"),
        ("bottom_given", {"codebook_size": 11}, "same rows, columns and codebook size"),
        ("top_given", {"grid": (3, 1, 2)}, "but not all"),
        ("top_given", {"grid": (1, 2, 1)}, "rows, columns"),
    ],
)
def test_levels_of_other_shapes_are_refused(name: str, fields: dict[str, Any], message: str) -> None:
    spec = two_levels((3, 1, 2))
    streams = [replace(stream, **fields) if stream.name == name else stream for stream in spec.streams]
    if name == "bottom" and "grid" in fields:  # its given frames as well, or those would be refused
        streams[3] = replace(streams[3], grid=(2, 2, 5))
    with pytest.raises(ConfigError, match=message):
        prior_of("bottom", replace(spec, streams=tuple(streams)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embedding": 0}, "embedding"),
        ({"residual": 7}, "even"),
        ({"hidden": 15}, "heads"),
        ({"hidden": 4}, "at least 6"),
        ({"kernel": 4}, "odd"),
        ({"attention_every": 4}, "attention_every"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_invalid_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prior_of("top", **fields)
