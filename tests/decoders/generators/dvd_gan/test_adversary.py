"""DVD-GAN's discriminators: which pixels they see, and their scores against figure 7 written out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests.decoders.generators.dvd_gan.small_dvd_gan import GIVEN, small_adversary, small_generator
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.generators.dvd_gan.adversary import DVDGANAdversary, DVDGANAdversaryConfig
from tokenreel.decoders.generators.dvd_gan.discriminators import TemporalDiscriminator
from tokenreel.decoders.layers import spectral_norm
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom
from tokenreel.testing.generators import random_conditions

CPU = torch.device("cpu")


def _random(count: int, seed: int = 7) -> SampleRandom:
    return SampleRandom(seed, np.arange(count), CPU)


def _numbered(count: int, frames: int, side: int = 8) -> Tensor:
    """Clips whose pixels are the numbers of their frames."""
    return torch.arange(frames).float().view(1, 1, frames, 1, 1).expand(count, 3, frames, side, side)


def test_frames_are_drawn_without_replacement_and_with_equal_probability() -> None:
    adversary = small_adversary(small_generator(**GIVEN, frames=7))
    clips, random = _numbered(2000, 7), _random(2000)
    chosen = adversary.spatial_input(clips, random)
    assert chosen.shape == (2000, 2, 3, 8, 8)
    numbers = chosen[:, :, 0, 0, 0].long()
    assert torch.equal(chosen, numbers[:, :, None, None, None].expand_as(chosen).float())
    pairs = torch.zeros(7, 7)
    for first, second in numbers.tolist():
        pairs[first, second] += 1
    assert pairs.diagonal().sum() == 0
    assert pairs[:2].sum() == pairs[:, :2].sum() == 0  # given frames are not seen
    counts = pairs[2:, 2:][~torch.eye(5, dtype=torch.bool)]  # 20 ordered pairs, each expected 100 times
    assert ((counts - 100) ** 2 / 100).sum() < 43.8  # chi-square with 19 degrees of freedom: 0.999
    assert not torch.equal(adversary.spatial_input(clips, random), chosen)  # each draw is a new one


def test_what_is_drawn_for_a_clip_does_not_depend_on_its_batch() -> None:
    adversary, clips = small_adversary(small_generator(), reduction="crop"), torch.randn(6, 3, 5, 8, 8)
    for see in (adversary.spatial_input, adversary.temporal_input):
        halves = [see(clips[rows], SampleRandom(7, np.arange(6)[rows], CPU)) for rows in (slice(0, 2), slice(2, 6))]
        assert torch.equal(torch.cat(halves), see(clips, _random(6)))


def test_reductions_of_the_clip() -> None:
    clips = torch.randn(200, 3, 5, 8, 8)
    for name, factor in (("pool2", 2), ("pool4", 4), ("identity", 1)):
        adversary = small_adversary(small_generator(), multipliers=[3, 5], reduction=name)
        blocks = clips.view(200, 3, 5, 8 // factor, factor, 8 // factor, factor)
        torch.testing.assert_close(adversary.temporal_input(clips, _random(200)), blocks.mean((4, 6)))
    crops = small_adversary(small_generator(), reduction="crop").temporal_input(clips, _random(200))
    places = [
        [(y, x) for y in range(5) for x in range(5) if torch.equal(crop, clip[:, :, y : y + 4, x : x + 4])]
        for crop, clip in zip(crops, clips, strict=True)
    ]
    assert all(len(found) == 1 for found in places)  # one place for all frames
    assert {found[0] for found in places} == {(y, x) for y in range(5) for x in range(5)}


def test_the_discriminators_see_the_pixels_that_the_paper_counts() -> None:
    spec = GeneratorSpec(48, Framing(128, 128), 120)
    config = DVDGANAdversaryConfig(width=1, multipliers=(1, 2, 4, 8, 16, 16))
    adversary, clip = DVDGANAdversary(config, spec), torch.zeros(1, 3, 48, 128, 128)
    seen = [see(clip, _random(1)).numel() // 3 for see in (adversary.spatial_input, adversary.temporal_input)]
    assert sum(seen) == 327_680
    assert clip.numel() // 3 == 786_432


def _figure_7(blocks: list[nn.Module], x: Tensor, pools: list[tuple[int, ...] | None]) -> Tensor:
    """The blocks as they are drawn, with the pooling of the shortcut after its convolution but in the first block."""
    for i, (block, pool) in enumerate(zip(blocks, pools, strict=True)):
        averaged = functional.avg_pool3d if x.ndim == 5 else functional.avg_pool2d
        inner = x if i == 0 else torch.relu(x)
        inner = block.second(torch.relu(block.first(inner)))
        if pool is None:
            x = inner + block.skip(x)
        elif i == 0:
            x = averaged(inner, pool) + block.skip(averaged(x, pool))
        else:
            x = averaged(inner, pool) + averaged(block.skip(x), pool)
    return x


def _score(head: nn.Module, features: Tensor, classes: Tensor) -> Tensor:
    """linear(f) + <e(y), f> of features [N, C, h, w], summed over places."""
    summed = torch.relu(features).sum((2, 3))
    embedded = classes @ head.class_embedding.weight.T
    return summed @ head.score.weight[0] + head.score.bias + (embedded * summed).sum(1)


@pytest.mark.parametrize("pool_time", [True, False])
def test_scores_are_those_of_figure_7(pool_time: bool) -> None:
    generator = small_generator(side=16, multipliers=[7, 5, 3])
    settings = {"multipliers": [3, 5, 5], "pool_time": pool_time}
    adversary = small_adversary(generator, **settings).double().eval()
    clips, classes = torch.randn(2, 3, 5, 16, 16, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    scores = adversary.scores(clips, Conditions(classes=classes), _random(2))
    random = _random(2)
    frames, small = adversary.spatial_input(clips, random), adversary.temporal_input(clips, random)
    spatial = adversary.spatial
    by_frame = [
        _score(spatial.head, _figure_7(list(spatial.blocks), frame, [(2, 2), (2, 2), None]), classes)
        for frame in frames.unbind(1)
    ]
    torch.testing.assert_close(scores.spatial, sum(by_frame))
    temporal = adversary.temporal
    pools: list[tuple[int, ...] | None] = [(2, 2, 2)] * 2 if pool_time else [(1, 2, 2)] * 2  # 5 steps: 2, then 1
    x = _figure_7(list(temporal.blocks_3d), small, pools)
    assert x.shape[2] == (1 if pool_time else 5)
    (last,) = temporal.blocks_2d
    steps = [step + last.second(torch.relu(last.first(torch.relu(step)))) for step in x.unbind(2)]
    torch.testing.assert_close(scores.temporal, sum(_score(temporal.head, step, classes) for step in steps))
    each = small_adversary(generator, **settings, frame_hinge="each").double().eval()
    each.load_state_dict(adversary.state_dict())
    of_frames = each.scores(clips, Conditions(classes=classes), _random(2))
    torch.testing.assert_close(of_frames.spatial, torch.stack(by_frame, 1))
    torch.testing.assert_close(of_frames.temporal, scores.temporal)


def test_time_is_halved_while_two_steps_are_left() -> None:
    with torch.device("meta"):
        for frames, pooled in ((1, 1), (2, 1), (3, 1), (12, 3), (16, 4), (48, 12)):
            for pool_time, expected in ((True, pooled), (False, frames)):
                temporal = TemporalDiscriminator([2, 3, 3], 1, pool_time)
                assert temporal(torch.empty(2, 3, frames, 8, 8), torch.empty(2, 1)).shape == (2, expected)


def test_losses_are_hinges_of_the_scores_after_one_power_iteration() -> None:
    generator = small_generator(**GIVEN, frames=7)
    adversary = small_adversary(generator).train()
    with torch.no_grad():
        for parameter in adversary.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    real, fake = torch.rand(2, 3, 3, 7, 8, 8) * 2 - 1
    conditions, advanced = random_conditions(generator, 3), copy.deepcopy(adversary)
    spectral_norm.advance(advanced)
    random = _random(3)
    (real_s, real_t), (fake_s, fake_t) = (advanced.eval().scores(clips, conditions, random) for clips in (real, fake))
    losses = adversary.discriminator_losses(real, fake, conditions, _random(3))
    hinges = [
        (1 - a).clamp(min=0).mean() + (1 + b).clamp(min=0).mean() for a, b in ((real_s, fake_s), (real_t, fake_t))
    ]
    torch.testing.assert_close(list(losses.values()), hinges)
    spectral_norm.advance(advanced)
    scores = advanced.scores(fake, conditions, _random(3))
    losses = adversary.generator_losses(fake, conditions, _random(3))
    torch.testing.assert_close(list(losses.values()), [-scores.spatial.mean(), -scores.temporal.mean()])


def test_given_frames_are_seen_by_the_temporal_discriminator_only() -> None:
    generator = small_generator(**GIVEN, frames=7)
    adversary, clips = small_adversary(generator).eval(), torch.rand(3, 3, 7, 8, 8)
    changed = clips.clone()
    changed[:, :, 1] *= -1
    before, after = (adversary.scores(c, random_conditions(generator, 3), _random(3)) for c in (clips, changed))
    assert torch.equal(before.spatial, after.spatial)
    assert not torch.allclose(before.temporal, after.temporal)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 6}, r"frames \(=6\) must be between 1 and the number of generated frames \(=5\)"),
        ({"frames": 0}, r"frames \(=0\)"),
        ({"multipliers": [3, 5, 5, 5]}, "must be multiples of 16"),
        ({"reduction": "pool4", "multipliers": [3, 5, 5]}, "must be multiples of 16"),
        ({"multipliers": []}, "must be at least 1"),
        ({"reduction": "pool3"}, "did you mean"),
    ],
)
def test_what_does_not_fit_the_clips_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        small_adversary(small_generator(), **settings)
    assert "\n" not in str(refusal.value)
