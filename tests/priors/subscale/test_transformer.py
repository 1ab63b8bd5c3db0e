"""The subscale transformer: the contract of all priors for each type, number of codebooks and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from toy_priors import spec_of

from tokenreel.counter_rng import uniforms
from tokenreel.data.spec import StreamSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior
from tokenreel.priors.sampling.logits import SamplingConfig, invert_cdf
from tokenreel.priors.sampling.video import sample
from tokenreel.priors.subscale.cached import CachedDecoder
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.transformer import SubscaleTransformer
from tokenreel.sample_random import SampleRandom
from tokenreel.testing.prior_sampling import check_sample_frequencies
from tokenreel.testing.priors import (
    check_contract,
    check_given_reaches_earlier,
    check_normalised,
    check_step_computes_one_position,
    random_given,
    random_tokens,
    scramble,
)

SCALE = 0.1  # of the noise on the weights: with more, attention attends to one location only
TYPES = {  # subscale factor, kernel and grid
    "single-frame": ((3, 1, 1), (5, 1, 1), (3, 2, 3)),
    "spatial": ((1, 2, 1), (1, 3, 3), (2, 4, 3)),
    "spatiotemporal": ((2, 1, 3), (3, 3, 5), (4, 2, 3)),
}
ATTENTIONS = ("query-key", "key", "relative")


def prior_of(
    kind: str = "single-frame", codebooks: int = 1, codebook_size: int = 5, **fields: Any
) -> SubscaleTransformer:
    torch.manual_seed(0)
    subscale, kernel, grid = TYPES[kind]
    sizes = {"depth": 1, "width": 13, "heads": 2, "head_width": 7, "embedding": 11}
    config = SubscaleTransformerConfig(subscale, kernel, **{**sizes, **fields})
    return SubscaleTransformer(config, spec_of(StreamSpec("video", grid, codebook_size, codebooks), frames=grid[0]))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("codebooks", [1, 3])
@pytest.mark.parametrize("kind", TYPES)
def test_contract(kind: str, codebooks: int, attention: str) -> None:
    prior = scramble(prior_of(kind, codebooks, attention=attention), scale=SCALE)
    check_contract(prior, random_tokens(prior, 2), random_given(prior, 2, 0.3), reaches(prior))


def reaches(prior: SubscaleTransformer) -> torch.Tensor:
    """bool [L, L]: whether the token at the first index influences the second: within a slice all do, of earlier slices
    those that the encoder's kernel covers from some location of the slice.
    """
    order = prior.order()[:, 1:]
    factor, kernel = (torch.tensor(x) for x in (prior.config.subscale, prior.config.kernel))
    slices = order[:, :3] % factor
    same = (slices[:, None] == slices).all(-1)
    around = ((order[:, None, :3] - order[:, :3]).abs() <= kernel // 2).all(-1)
    index = torch.arange(len(order)) // (len(order) // int(factor.prod()))
    in_slice = (around[:, None] * (index == torch.arange(int(index.max()) + 1)[:, None])).any(-1)  # [L, slices]
    return (same | in_slice[:, index]).triu(1)


@pytest.mark.parametrize("kind", ["spatial", "spatiotemporal"])
def test_given_tokens_condition_earlier_ones(kind: str) -> None:
    """Given frames are scattered over subscale order; all of them condition the first slice."""
    prior = scramble(prior_of(kind, 2), scale=SCALE)
    given = prior.given_frames(1).expand(1, -1)
    assert (~given).cumsum(1)[given].any(), "no given token comes after a sampled one"
    check_given_reaches_earlier(prior, random_tokens(prior, 1), given)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_samples_follow_its_probabilities(attention: str) -> None:
    torch.manual_seed(0)
    sizes = {"depth": 1, "width": 7, "heads": 1, "head_width": 5, "embedding": 3}
    config = SubscaleTransformerConfig((1, 1, 2), (1, 1, 3), attention=attention, **sizes)  # type: ignore[arg-type]
    spec = spec_of(StreamSpec("video", (1, 2, 2), 2, codebooks=2), frames=1)
    prior = scramble(SubscaleTransformer(config, spec), scale=SCALE)
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.2)
    check_normalised(prior, tokens, given)
    check_sample_frequencies(prior, tokens, given, speculate=2)


@pytest.mark.parametrize("kind", TYPES)
def test_a_new_token_computes_one_location(kind: str) -> None:
    prior = scramble(prior_of(kind, 3))
    check_step_computes_one_position(prior, random_tokens(prior, 1), max_ratio=1.1)


def test_the_encoder_runs_once_per_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the decoder once per location, whatever the number of codebooks."""
    prior = prior_of("spatiotemporal", 3).eval()
    encoded, computed = [], []
    monkeypatch.setattr(prior.encoder, "forward", _counting(prior.encoder.forward, encoded, lambda *x: len(x[2])))
    monkeypatch.setattr(CachedDecoder, "extend", _counting(CachedDecoder.extend, computed, lambda *x: x[2].numel()))
    sample(prior, {}, config=SamplingConfig(speculate=0), samples=torch.arange(1))
    assert sum(encoded) == prior.slices.count
    assert sum(computed) == prior.slices.count * prior.slices.locations


def _counting(function: Callable[..., Any], counts: list[int], count: Callable[..., int]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        counts.append(count(*arguments))
        return function(*arguments)

    return counted


@pytest.mark.parametrize("speculate", [0, 5])
def test_cached_sampling_equals_recomputing_slices(speculate: int) -> None:
    """Tokens sampled with the caches are those sampled with whole slices computed again for each token."""
    prior = scramble(prior_of("spatial", 2, codebook_size=3), scale=SCALE)
    tokens, given = random_tokens(prior, 2), prior.given_frames(1).expand(2, -1)
    config, ids = SamplingConfig(speculate=speculate), torch.arange(2)
    found = prior.flatten(sample(prior, tokens, given, config, seed=3, samples=ids).tokens)
    numbers = torch.from_numpy(uniforms(3, ids.numpy(), _token_ids(prior)))
    flat = prior.flatten(tokens)
    for at in (~given[0]).nonzero().squeeze(1).tolist():
        clips = [torch.where(torch.arange(len(flat[0])) == at, token, flat) for token in range(prior.codebook_size)]
        with torch.no_grad():
            log_probs = [prior.log_prob(prior.unflatten(clip), given)[:, at] for clip in clips]
        flat[:, at] = invert_cdf(torch.stack(log_probs, -1).exp(), numbers[:, at])
    assert torch.equal(found, flat)


def _token_ids(prior: SubscaleTransformer) -> np.ndarray:
    """The id of the token at each position, which random numbers belong to: in raster order."""
    return np.ravel_multi_index(tuple(prior.order()[:, 1:].T.numpy()), prior.spec.levels[0].shape)


def numbers(rows: int) -> SampleRandom:
    return SampleRandom(0, np.arange(rows), torch.device("cpu"))


def test_overfits_one_clip() -> None:
    prior = prior_of("spatiotemporal", 3)
    tokens, given = random_tokens(prior, 1), prior.given_frames(1)[None]
    batch, first = {"video": tokens["video"].repeat(5, 1, 1, 1, 1)}, given.expand(5, -1)  # a slice each
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    random = numbers(5)
    for _ in range(150):
        loss = prior.loss(batch, first, random)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in prior.parameters())
    with torch.no_grad():
        assert -prior.log_prob(tokens, given).sum() / (~given).sum() < 0.05  # nats; guessing costs 1.61


def test_a_step_trains_one_slice_of_each_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never one that is completely given, as frame 0 is; all others about equally often."""
    prior, chosen = prior_of(codebooks=1), []
    monkeypatch.setattr(prior, "slice_nats", lambda clips, index, _: chosen.append(index) or torch.ones(len(index), 6))
    tokens, given = random_tokens(prior, 331), prior.given_frames(1).expand(331, -1)
    assert prior.loss(tokens, given, numbers(331)) == 1
    assert torch.bincount(chosen[0]).tolist() == pytest.approx([0, 165, 165], abs=30)


@pytest.mark.parametrize(
    "fields",
    [
        {"tied": "embeddings"},
        {"adaptive_input": True},
        {"adaptive_softmax": True},
        {"adaptive_input": True, "adaptive_softmax": True},
        {"adaptive_input": True, "adaptive_softmax": True, "tied": "embeddings"},
        {"adaptive_input": True, "adaptive_softmax": True, "tied": "projections"},
    ],
    ids=str,
)
def test_contract_with_the_layers_of_appendix_a(fields: dict[str, Any]) -> None:
    cutoffs = (3,) if "adaptive" in str(fields) else ()
    prior = prior_of("spatial", 2, codebook_size=7, embedding=17, cutoffs=cutoffs, **fields)
    prior.prepare([random_tokens(prior, 3, seed=5)])
    check_contract(scramble(prior, scale=SCALE), random_tokens(prior, 2), random_given(prior, 2, 0.3), reaches(prior))


def test_token_ranks_are_counted_and_saved() -> None:
    prior = prior_of(codebooks=2, adaptive_softmax=True, cutoffs=(2,))
    rare_first = {"video": torch.tensor([4, 4, 4, 3, 3, 0]).view(1, 1, 2, 3, 1).expand(7, 3, 2, 3, 2)}
    prior.prepare([rare_first, rare_first])
    assert [ranks.token_at.tolist() for ranks in prior.ranks] == [[4, 3, 0, 1, 2]] * 2
    again = Prior.from_document(prior.to_document())
    again.load_state_dict(prior.state_dict())
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.3)
    assert torch.equal(again.log_prob(tokens, given), prior.log_prob(tokens, given))


def test_bfloat16_is_close() -> None:
    """Sampling in bfloat16 weights, and training under autocast; the losses themselves are float32."""
    prior = scramble(prior_of("spatiotemporal", 3, attention="key"), scale=SCALE)
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.3)
    exact, exact_loss = prior.start(tokens, given), prior.loss(tokens, given, numbers(2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = prior.loss(tokens, given, numbers(2))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact_loss, atol=0.02, rtol=0)
    rounded = prior.to(torch.bfloat16).start(tokens, given)
    torch.testing.assert_close(rounded.log_probs, exact.log_probs, atol=0.1, rtol=0)


def test_a_factor_that_does_not_divide_is_refused() -> None:
    spec = spec_of(StreamSpec("video", (3, 2, 5), 7), frames=3)
    config = SubscaleTransformerConfig((1, 1, 2), (1, 1, 3), 1, 7, 1, 5, 3)
    with pytest.raises(ConfigError, match=r"factor 2 does not divide the 5 columns"):
        SubscaleTransformer(config, spec)


def test_two_levels_are_refused() -> None:
    spec = spec_of(StreamSpec("top", (2, 1, 1), 3), StreamSpec("bottom", (2, 1, 1), 3), frames=2)
    with pytest.raises(ConfigError, match="one level"):
        SubscaleTransformer(SubscaleTransformerConfig((1, 1, 1), (1, 1, 1), 1, 7, 1, 5, 3), spec)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel": (2, 1, 1)}, "kernel"),
        ({"depth": 0}, "depth"),
        ({"cutoffs": (2,)}, "cutoffs"),
        ({"adaptive_input": True}, "cutoffs"),
        ({"tied": "projections"}, "projections"),
        ({"tied": "embeddings", "adaptive_input": True, "cutoffs": (2,)}, "tied"),
    ],
)
def test_invalid_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    sizes = {
        "subscale": (3, 1, 1),
        "kernel": (3, 1, 1),
        "depth": 1,
        "width": 7,
        "heads": 1,
        "head_width": 5,
        "embedding": 3,
    }
    with pytest.raises(ConfigError, match=message):
        SubscaleTransformer(
            SubscaleTransformerConfig(**{**sizes, **fields}), spec_of(StreamSpec("video", (3, 2, 5), 7), frames=3)
        )


def test_slices_of_one_location() -> None:
    """The masked convolution then covers nothing, and all conditioning comes from the encoder."""
    spec = spec_of(StreamSpec("video", (1, 2, 3), 5), frames=1)
    config = SubscaleTransformerConfig((1, 2, 3), (1, 3, 5), 1, 7, 1, 5, 3)
    prior = scramble(SubscaleTransformer(config, spec), scale=SCALE)
    check_contract(prior, random_tokens(prior, 2), random_given(prior, 2, 0.3))


def test_samples_under_autocast() -> None:
    prior = prior_of(codebooks=2).eval()
    with torch.autocast("cpu", torch.bfloat16):
        sampled = sample(prior, {}, samples=torch.arange(2)).tokens["video"]
    assert sampled.shape == (2, 3, 2, 3, 2)
