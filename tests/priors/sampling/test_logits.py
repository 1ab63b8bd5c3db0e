"""Sampling a token from its probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenreel.config import from_mapping, to_mapping
from tokenreel.errors import ConfigError
from tokenreel.priors.sampling.logits import SamplingConfig, StreamSampling, TokenSampler, invert_cdf

PROBS = torch.tensor([0.05, 0.4, 0.0, 0.3, 0.25])
EVENLY_SPACED = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000  # the centre of each thousandth


def frequencies(*settings: StreamSampling, position: int = 0) -> list[float]:
    """Frequencies of the tokens of PROBS for evenly spaced uniform numbers."""
    sampler = TokenSampler(settings, torch.arange(len(settings)))
    log_probs = PROBS.log().expand(1, 1000, -1)
    indices = sampler(log_probs, torch.full((1, 1000), position), EVENLY_SPACED[None])
    return (torch.bincount(indices.flatten(), minlength=5) / 1000).tolist()


def test_the_cumulative_distribution_is_inverted():
    numbers = torch.tensor([1e-17, 0.049, 0.051, 0.449, 0.451, 0.749, 0.751, 1 - 2**-53], dtype=torch.float64)
    probs = PROBS.expand(len(numbers), -1)
    assert invert_cdf(probs, numbers).tolist() == [0, 0, 1, 1, 3, 3, 4, 4]


def test_impossible_tokens_are_never_sampled_at_the_ends():
    """Tokens of probability 0 first and last, as beyond a smaller codebook."""
    probs = torch.tensor([[0.0, 0.3, 0.7, 0.0, 0.0]]).expand(2, -1)
    assert invert_cdf(probs, torch.tensor([1e-300, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (StreamSampling(), [0.05, 0.4, 0, 0.3, 0.25]),
        (StreamSampling(temperature=0.5), [0.0025, 0.16, 0, 0.09, 0.0625]),
        (StreamSampling(top_k=2), [0, 0.4, 0, 0.3, 0]),
        (StreamSampling(top_k=11), [0.05, 0.4, 0, 0.3, 0.25]),
        (StreamSampling(top_p=0.69), [0, 0.4, 0, 0.3, 0]),
        (StreamSampling(top_p=0.71), [0, 0.4, 0, 0.3, 0.25]),
        (StreamSampling(top_p=1e-9), [0, 1, 0, 0, 0]),
        (StreamSampling(top_k=3, top_p=0.5), [0, 0.4, 0, 0.3, 0]),  # half of the 0.95 that top-k leaves
        (StreamSampling(greedy=True), [0, 1, 0, 0, 0]),
        (StreamSampling(temperature=1e-6), [0, 1, 0, 0, 0]),
        *((StreamSampling(temperature=t), [0, 1, 0, 0, 0]) for t in (1e-29, 1e-40, 1e-50, 1e-320)),
        *((StreamSampling(temperature=t), [1, 1, 0, 1, 1]) for t in (1e29, 1e40, 1e308)),
        (StreamSampling(top_p=1e-50), [0, 1, 0, 0, 0]),
        (StreamSampling(top_k=1 << 70), [0.05, 0.4, 0, 0.3, 0.25]),
    ],
)
def test_settings_by_hand(setting: StreamSampling, expected: list[float]):
    total = sum(expected)
    assert frequencies(setting) == pytest.approx([e / total for e in expected], abs=1.1e-3)


def test_each_position_has_the_setting_of_its_stream():
    settings = (StreamSampling(), StreamSampling(top_k=2), StreamSampling(greedy=True), StreamSampling(temperature=0.5))
    for position, setting in enumerate(settings):
        assert frequencies(*settings, position=position) == frequencies(setting)


def test_nan_stays_in_the_codebook():
    """The sampler reports NaN at the end; until then an index must not exceed an embedding."""
    nan = torch.full((1, 1, 5), torch.nan)
    for setting in (StreamSampling(), StreamSampling(top_k=2), StreamSampling(greedy=True)):
        indices: Tensor = TokenSampler([setting], torch.zeros(1, dtype=torch.long))(
            nan, torch.zeros(1, 1).long(), EVENLY_SPACED[None, :1]
        )
        assert 0 <= int(indices) < 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("speculate", -1),
        ("window_stride", -2),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: float):
    with pytest.raises(ConfigError, match=rf"{field} \(={value}\)"):
        SamplingConfig(**{field: value})


def test_exceptions_by_stream():
    config = SamplingConfig(top_k=7, streams={"state": StreamSampling(greedy=True)})
    assert [s.greedy for s in config.of_streams(["video", "state"])] == [False, True]
    assert config.of_streams(["video", "state"])[0].top_k == 7
    with pytest.raises(ConfigError, match="no stream is called 'state'"):
        config.of_streams(["video", "stage"])
    assert from_mapping(SamplingConfig, to_mapping(config)) == config
