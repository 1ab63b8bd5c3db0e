"""The inbetweening generator: the contract, key frames, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.decoders.generators.inbetweening.inbetweening_models import FRAMING, SMALL, small_adversary, small_generator
from torch import nn

from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import build_generator
from tokenreel.decoders.generators.inbetweening.generator import Inbetweening
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom
from tokenreel.testing.generators import check_contract, random_conditions

CLIPS = 3


def train_briefly(generator: Inbetweening) -> None:
    """Updates the running statistics, which at first do not fit the activations."""
    with torch.no_grad():
        for seed in range(30):
            generator(torch.randn(CLIPS, generator.spec.noise), random_conditions(generator, CLIPS, seed))


@pytest.mark.parametrize(
    ("config", "penalty"),
    [({}, "plain"), ({"channels": 1}, "roth"), ({"fusion": "none"}, "plain"), ({"fusion": "naive"}, "plain")],
)
def test_it_fulfils_the_contract(config: dict[str, object], penalty: str) -> None:
    generator = small_generator(**config)
    train_briefly(generator)
    check_contract(generator, small_adversary(generator, penalty=penalty))


def test_discriminators_judge_the_true_key_frames() -> None:
    """In training too; and as they are pasted as data, no gradient reaches the generator through them."""
    generator = small_generator(channels=1).train()
    conditions = random_conditions(generator, CLIPS)
    assert conditions.given is not None
    assert conditions.end is not None
    clips = generator(torch.randn(CLIPS, 7), conditions)
    assert torch.equal(clips[:, :, 0], conditions.given[:, :, 0].mean(1, keepdim=True))
    assert torch.equal(clips[:, :, -1], conditions.end.mean(1, keepdim=True))
    clips[:, :, [0, -1]].sum().backward(retain_graph=True)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in generator.parameters())


def test_the_image_encoder_learns_from_the_adversarial_losses() -> None:
    generator = small_generator()
    adversary = small_adversary(generator)
    conditions, random = random_conditions(generator, CLIPS), SampleRandom(5, np.arange(CLIPS), torch.device("cpu"))
    losses = adversary.generator_losses(generator(torch.randn(CLIPS, 7), conditions), conditions, random)
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in generator.encoder.parameters())


def test_both_key_frames_are_normalised_together() -> None:
    """The running mean is that of the first convolution over start and end frames."""
    generator = small_generator().train()
    conditions = random_conditions(generator, CLIPS)
    assert conditions.given is not None
    assert conditions.end is not None
    convolution, norm, *_ = generator.encoder
    generator(torch.randn(CLIPS, 7), conditions)
    expected = convolution(torch.cat([conditions.given[:, :, 0], conditions.end])).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, 0.1 * expected, atol=1e-6, rtol=1e-5)


def test_clips_by_block_end_with_the_clip_itself() -> None:
    generator = small_generator()
    train_briefly(generator)
    noise, conditions = torch.randn(CLIPS, 7), random_conditions(generator, CLIPS)
    *early, last = generator.eval().clips_by_block(noise, conditions)
    assert len(early) == 1, "two blocks in each of the three stages"
    assert torch.equal(last, generator(noise, conditions))
    assert not torch.equal(early[0], last)
    assert not list(small_generator(fusion="naive").clips_by_block(noise, conditions))


def test_gate_means_follow_the_gates() -> None:
    generator = small_generator()
    gate = generator.latents.get_submodule("blocks.4.end_gate")
    assert isinstance(gate, nn.Conv1d)
    with torch.no_grad():
        gate.weight.zero_()
        gate.bias.fill_(-np.log(3))  # type: ignore[union-attr]
    means = generator.gate_means(torch.randn(11, 7))
    assert means.shape == (6, 3)
    assert means[4, 1].item() == pytest.approx(0.25)
    assert (means > 0).all()
    assert (means < 1).all()
    assert small_generator(fusion="none").gate_means(torch.randn(11, 7)).shape == (0, 3)


def test_initial_weights() -> None:
    convolution, *_ = small_generator(init="normal", widths=[53, 5, 7]).encoder
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not convolution.bias.any()


@pytest.mark.parametrize(
    ("frames", "framing", "config", "message"),
    [
        (12, FRAMING, {}, r"frames \(=12\) must be 4, 8, 16 or a higher power of two"),
        (3, FRAMING, {}, r"frames \(=3\) must be 4"),
        (32, FRAMING, {"fusion": "naive"}, r"frames \(=32\) must be at most 16 where fusion is naive"),
        (16, FRAMING, {"blocks": 7}, r"blocks \(=7\) must be a multiple of 3, the stages for 16 frames"),
        (16, Framing(8, 20), {}, r"framing \(=8x20\) must be multiples of 8"),
        (16, FRAMING, {"latent": 0}, "latent, widths and blocks must be at least 1"),
    ],
)
def test_what_is_refused(frames: int, framing: Framing, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_generator({**SMALL, **config}, frames, framing)


def test_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="not conditioned on a class"):
        build_generator(SMALL, 16, FRAMING, ("arm", "ball"))
