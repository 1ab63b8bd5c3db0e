"""DVD-GAN's generator as a whole: what flows where, statistics, recomputation, export and refusals."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.decoders.generators.dvd_gan.small_dvd_gan import CLASSES, GIVEN, SMALL, small_generator
from torch import Tensor, nn

from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import build_generator
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.generators.dvd_gan.generator import DVDGAN
from tokenreel.decoders.generators.noise import sample_noise
from tokenreel.decoders.layers import spectral_norm
from tokenreel.decoders.layers.batch_norm import BatchNorm
from tokenreel.errors import ConfigError
from tokenreel.testing.generators import random_conditions

CLIPS = 3


def _inputs(generator: DVDGAN, seed: int = 0) -> tuple[Tensor, Conditions]:
    dtype = generator.affine.bias.dtype
    noise, conditions = sample_noise(seed, np.arange(CLIPS), 11).to(dtype), random_conditions(generator, CLIPS, seed)
    own = {name: None if value is None else value.to(dtype) for name, value in dataclasses.asdict(conditions).items()}
    return noise, Conditions(**own)


@pytest.mark.parametrize(("normalisation", "leaks"), [("batch_time", False), ("batch", True)])
def test_in_training_nothing_flows_between_frames_through_the_norms(normalisation: str, leaks: bool) -> None:
    """One frame is disturbed after the last GRU, in all clips: the other frames stay as they are."""
    generator = small_generator(normalisation=normalisation).train()
    disturbed = copy.deepcopy(generator)  # as a pass in training mode changes a generator
    hook = disturbed.groups[-1].gru.register_forward_hook(_disturb)
    before, after = generator(*_inputs(generator)), disturbed(*_inputs(disturbed))
    hook.remove()
    assert not torch.equal(before[:, :, 2], after[:, :, 2])
    others = [0, 1, 3, 4]
    assert torch.equal(before[:, :, others], after[:, :, others]) != leaks


def _disturb(module: nn.Module, inputs: object, states: Tensor) -> Tensor:
    disturbed = states.clone()
    disturbed[:, 2] = states[:, 2] * 3 + torch.linspace(-1, 1, states[:, 2].numel()).view_as(states[:, 2])
    return disturbed


def test_a_pass_in_training_makes_one_power_iteration_and_one_in_evaluation_none() -> None:
    generator = small_generator()
    _randomise(generator)
    expected = copy.deepcopy(generator)
    spectral_norm.advance(expected)
    generator.eval()(*_inputs(generator))
    before = generator.affine.parametrizations.weight[0].u.clone()
    generator.train()(*_inputs(generator))
    found = generator.affine.parametrizations.weight[0].u
    assert not torch.equal(found, before)
    assert torch.equal(found, expected.affine.parametrizations.weight[0].u)


def test_groups_that_are_recomputed_have_the_same_gradients_and_statistics() -> None:
    plain = small_generator(**GIVEN, frames=7).double().train()
    _randomise(plain)
    recomputed = small_generator(**GIVEN, frames=7, recompute_activations=True).double().train()
    recomputed.load_state_dict(plain.state_dict())
    for generator in (plain, recomputed):
        generator(*_inputs(generator)).square().sum().backward()
    for (name, expected), found in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, recomputed.get_buffer(name)), name


def test_set_statistics_averages_those_of_each_time_step_over_the_batches() -> None:
    generator = small_generator().double()
    norm = generator.final_norm.norm
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    before = generator.affine.parametrizations.weight[0].u.clone()
    generator.train().set_statistics(_inputs(generator, seed) for seed in range(3))
    hook.remove()
    assert not generator.training
    assert torch.equal(generator.affine.parametrizations.weight[0].u, before)
    means = torch.stack([x.mean((0, 3, 4)) for x in seen])  # [batches, T, C]
    variances = torch.stack([x.transpose(0, 1).flatten(3).permute(0, 2, 1, 3).flatten(2).var(2) for x in seen])
    assert means.shape == (3, 5, 5)
    torch.testing.assert_close(norm.norm.running_mean.view(5, 5), means.mean(0))
    torch.testing.assert_close(norm.norm.running_var.view(5, 5), variances.mean(0))
    assert not torch.allclose(means[:, 0], means[:, 4])


def test_exported_weights_are_divided_by_their_own_singular_values() -> None:
    generator = small_generator()
    _randomise(generator)
    exported = generator.for_export()
    assert not spectral_norm.is_normalised(exported)
    for name, module in exported.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            sigma = torch.linalg.svdvals(module.weight.detach().flatten(1))[0].item()
            assert (abs(sigma - 1) < 0.02) == (name != "class_embedding"), f"{name}: {sigma}"
    assert torch.equal(exported.class_embedding.weight, generator.class_embedding.weight)
    assert sum(p.numel() for p in exported.parameters()) == sum(p.numel() for p in generator.parameters())
    assert set(exported.for_export().state_dict()) == set(exported.state_dict())


def test_classes_are_embedded_linearly() -> None:
    generator = small_generator().eval()
    seen: list[Tensor] = []
    hook = generator.affine.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    weights = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.25, 0.75, 0]])
    generator.generate(torch.zeros(3, 11), Conditions(classes=weights))
    hook.remove()
    torch.testing.assert_close(seen[0][2], 0.25 * seen[0][0] + 0.75 * seen[0][1])
    assert not torch.allclose(seen[0][0], seen[0][1])


@pytest.mark.parametrize(
    ("settings", "side", "message"),
    [
        ({}, 16, "2 multipliers make 8x8 pixels, not 16x16"),
        ({"multipliers": [7]}, 8, "two or more multipliers"),
        ({"noise": 0}, 8, r"noise \(=0\)"),
        ({"given_frames": 2}, 8, r"given_multipliers \(=\[\]\) must have 2 values"),
        ({"given_multipliers": [2, 3]}, 8, "must have 0 values"),
        ({"given_frames": 5, "given_multipliers": [2, 3]}, 8, "must leave at least one"),
        ({"attention": {"after_group": 3}}, 8, "between 1 and 2"),
        ({"class_conditional": False}, 8, "there are 3 classes: set it to true"),
    ],
)
def test_what_cannot_be_built_is_refused(settings: dict[str, Any], side: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        build_generator({**SMALL, **settings}, 5, Framing(side, side), CLASSES)
    assert "\n" not in str(refusal.value)


def test_a_class_conditional_generator_needs_classes() -> None:
    with pytest.raises(ConfigError, match="there are no classes: set it to false"):
        build_generator(SMALL, 5, Framing(8, 8))


def _randomise(generator: DVDGAN) -> None:
    """Weights that are not orthogonal, so that power iterations have something to do, and other statistics."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype), alpha=0.3)
        for norm in generator.modules():
            if isinstance(norm, BatchNorm):
                norm.running_var.mul_(2)
