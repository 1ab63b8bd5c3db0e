"""Losses of inbetweening's discriminators against formulas, torch.func and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.decoders.generators.inbetweening.inbetweening_models import small_adversary, small_generator
from torch import Tensor, nn
from torch.func import grad, vmap

from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.generators.inbetweening.adversary import InbetweeningAdversary, intermediate_frames
from tokenreel.decoders.generators.inbetweening.discriminators import ImageBlock, VideoDiscriminator
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom

CLIPS = 5
NETWORKS = ("video", "image")


def numbered_clips(count: int, frames: int) -> Tensor:
    """Clips whose pixels are the numbers of their frames."""
    return torch.arange(frames, dtype=torch.float64).view(1, 1, -1, 1, 1).expand(count, 3, -1, 8, 24)


def random_of(count: int) -> SampleRandom:
    return SampleRandom(3, np.arange(count), torch.device("cpu"))


def losses_of(adversary: InbetweeningAdversary, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    return adversary.discriminator_losses(real, fake, Conditions(), random_of(len(real)))


def uniform(seed: int) -> Tensor:
    clips = torch.rand(CLIPS, 3, 16, 8, 24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return clips * 2 - 1


@pytest.fixture
def adversary() -> InbetweeningAdversary:
    return small_adversary(small_generator()).double()


def test_every_intermediate_frame_is_as_likely_and_no_key_frame_is_drawn() -> None:
    count, frames = 3001, 7
    drawn = intermediate_frames(numbered_clips(count, frames), random_of(count))
    assert drawn.shape == (count, 3, 8, 24)
    counts = torch.bincount(drawn[:, 0, 0, 0].long(), minlength=frames)
    assert counts[0] == counts[-1] == 0
    p = 1 / (frames - 2)
    assert (counts[1:-1] - count * p).abs().max() < 5 * math.sqrt(count * p * (1 - p))


def test_frames_of_true_and_generated_clips_are_drawn_apart(adversary: InbetweeningAdversary) -> None:
    seen: list[Tensor] = []
    adversary.image.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0, 0, 0]))
    clips = numbered_clips(CLIPS, 16)
    losses_of(adversary, clips, -clips)
    signs = [set(numbers.sign().tolist()) for numbers in seen]
    assert signs == [{1.0}, {-1.0}, {1.0}, {-1.0}], "the scores' and the penalty's"
    assert not torch.equal(seen[0], -seen[1])
    assert torch.equal(seen[0], seen[2])


def test_losses_are_those_of_equations_7_to_9(adversary: InbetweeningAdversary) -> None:
    real, fake, rest = uniform(1), uniform(2), random_of(CLIPS)
    frames = [intermediate_frames(real, rest), intermediate_frames(fake, rest)]
    losses = losses_of(adversary, real, fake)
    for name, (true, generated) in zip(NETWORKS, [(real, fake), frames], strict=True):
        d_true, d_generated = (adversary.get_submodule(name)(x).sigmoid().tolist() for x in (true, generated))
        expected = -sum(math.log(d) for d in d_true) / CLIPS - sum(math.log(1 - d) for d in d_generated) / CLIPS
        assert losses[f"{name}/logistic"].item() == pytest.approx(expected, rel=1e-5)
    frame = intermediate_frames(fake, random_of(CLIPS))
    for name, generated in zip(NETWORKS, (fake, frame), strict=True):
        d_generated = adversary.get_submodule(name)(generated).sigmoid().tolist()
        found = adversary.generator_losses(fake, Conditions(), random_of(CLIPS))[f"adversarial/{name}"]
        assert found.item() == pytest.approx(-sum(math.log(d) for d in d_generated) / CLIPS, rel=1e-5)


def expected_penalty(network: nn.Module, true: Tensor, generated: Tensor, form: str) -> Tensor:
    """gamma = 0.3, by the gradient of each sample alone."""

    def logit(sample: Tensor) -> Tensor:
        scores: Tensor = network(sample[None])
        return scores[0]

    norms = [vmap(grad(logit))(clips).square().flatten(1).sum(1) for clips in (true, generated)]
    if form == "plain":
        return 0.3 * (norms[0].mean() + norms[1].mean())
    d = [network(clips).sigmoid() for clips in (true, generated)]
    return 0.3 / 2 * (((1 - d[0]) ** 2 * norms[0]).mean() + (d[1] ** 2 * norms[1]).mean())


@pytest.mark.parametrize("form", ["plain", "roth"])
def test_the_gradient_penalty_is_its_formula(form: str) -> None:
    adversary = small_adversary(small_generator(), penalty=form, penalty_weight=0.3).double()
    real, fake, rest = uniform(1), uniform(2), random_of(CLIPS)
    frames = (intermediate_frames(real, rest), intermediate_frames(fake, rest))
    losses = losses_of(adversary, real, fake)
    for name, (true, generated) in zip(NETWORKS, ((real, fake), frames), strict=True):
        expected = expected_penalty(adversary.get_submodule(name), true, generated, form)
        torch.testing.assert_close(losses[f"{name}/penalty"], expected)


@pytest.mark.parametrize("form", ["plain", "roth"])
def test_the_penalty_has_the_gradients_of_finite_differences(form: str) -> None:
    adversary = small_adversary(small_generator(), penalty=form, penalty_weight=0.3).double()
    real, fake = uniform(1), uniform(2)
    step = 1e-8  # a larger one moves activations over the kink of a leaky ReLU, where the penalty jumps
    losses = losses_of(adversary, real, fake)
    for name in NETWORKS:
        (weight, *_) = adversary.get_submodule(name).parameters()
        (gradient,) = torch.autograd.grad(losses[f"{name}/penalty"], weight)
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * direction
            values.append(losses_of(adversary, real, fake)[f"{name}/penalty"].item())
            with torch.no_grad():
                weight -= sign * step * direction
        assert (values[0] - values[1]) / (2 * step) == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_without_a_penalty() -> None:
    adversary = small_adversary(small_generator(), penalty_weight=0).double()
    assert set(losses_of(adversary, uniform(1), uniform(2))) == {f"{name}/logistic" for name in NETWORKS}


def test_clips_of_a_batch_are_judged_alone(adversary: InbetweeningAdversary) -> None:
    clips = uniform(1)
    scores = adversary.video(clips)
    torch.testing.assert_close(adversary.video(clips[2:3]), scores[2:3])
    frames = clips[:, :, 4]
    torch.testing.assert_close(adversary.image(frames[2:3]), adversary.image(frames)[2:3])


def test_the_shortcut_of_an_image_block_is_of_its_input() -> None:
    block = ImageBlock(3, 5).double()
    x = uniform(1)[:, :, 0]
    nn.init.zeros_(block.layers[-2].weight)  # type: ignore[arg-type] # of the norm: nothing of the layers is left
    averaged = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    expected = torch.einsum("oi,bihw->bohw", block.shortcut.weight[:, :, 0, 0], averaged)
    assert block.shortcut.bias is not None
    torch.testing.assert_close(block(x), expected + block.shortcut.bias.view(-1, 1, 1))


def test_short_clips_need_fewer_kernels_in_time() -> None:
    generator = small_generator(frames=8)
    message = r"time_kernels \(=3\) need clips of 10 frames, these have 8: set it to 2 or lower"
    with pytest.raises(ConfigError, match=message):
        small_adversary(generator, time_kernels=3)
    network = small_adversary(generator, time_kernels=2).video
    assert isinstance(network, VideoDiscriminator)
    assert network(torch.zeros(1, 3, 8, 8, 24)).shape == (1,)


def test_what_the_configuration_refuses() -> None:
    generator = small_generator()
    for config, message in (
        ({"widths": [3, 5, 7, 11]}, "sides are multiples of 16, these have 8x24"),
        ({"time_kernels": 4}, r"time_kernels \(=4\) must be between 0 and 3"),
        ({"penalty_weight": -1.0}, "must be 0 or more"),
        ({"widths": []}, "at least one"),
    ):
        with pytest.raises(ConfigError, match=message):
            small_adversary(generator, **config)
