"""Checks of the contract of `decoders/generators/base.py`, one function each, for any generator.

A generator's test file builds a small one and calls `check_contract`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.decoders.generators.base import Adversary, VideoGenerator, build_generator
from tokenreel.decoders.generators.conditions import Conditions, class_weights
from tokenreel.decoders.generators.noise import sample_noise
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom

CLIPS = 5
CLOSE = 1e-4  # of pixels in [-1, 1]: kernels round differently for other batch sizes


def random_conditions(generator: VideoGenerator, count: int, seed: int = 0) -> Conditions:
    """Conditions that fit the generator's spec, different for each clip."""
    spec, rng = generator.spec, torch.Generator().manual_seed(seed)
    size = (spec.framing.height, spec.framing.width)
    uniform = [torch.rand(count, 3, *shape, generator=rng) * 2 - 1 for shape in ((spec.given_frames, *size), size)]
    indices = torch.randint(len(spec.classes) or 1, (count,), generator=rng).tolist()
    return Conditions(
        given=uniform[0] if spec.given_frames else None,
        end=uniform[1] if spec.end_frame else None,
        classes=class_weights(indices, spec) if spec.classes else None,
    )


def check_contract(generator: VideoGenerator, adversary: Adversary) -> None:
    """Both as they are trained, of any weights that are not all zero."""
    check_training_pass(generator)
    check_losses(generator, adversary)
    exported = generator.for_export()
    check_export(generator, exported)
    check_clips_fit_the_spec(exported)
    check_no_leak_across_clips(exported)
    check_noise_matters(exported)
    check_conditions_matter(exported)
    check_wrong_conditions(exported)
    check_saved(exported)
    check_saved(generator)
    check_meta_device(generator)


def check_training_pass(generator: VideoGenerator) -> None:
    generator.train()
    spec, (noise, conditions) = generator.spec, _inputs(generator)
    video = generator(noise, conditions)
    shape = (CLIPS, spec.channels, spec.frames, spec.framing.height, spec.framing.width)
    assert video.shape == shape, f"forward: shape {tuple(video.shape)}, expected {shape}"
    video.square().mean().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, f"forward: {name} gets no gradient"
        assert parameter.grad.isfinite().all(), f"forward: the gradient of {name} is not finite"
    generator.zero_grad(set_to_none=True)


def check_losses(generator: VideoGenerator, adversary: Adversary) -> None:
    noise, conditions = _inputs(generator)
    fake = generator(noise, conditions)
    real = torch.rand(fake.shape, generator=torch.Generator().manual_seed(3)) * 2 - 1
    random = SampleRandom(7, np.arange(CLIPS), generator.device)
    total = sum(adversary.discriminator_losses(real, fake.detach(), conditions, random).values())
    assert isinstance(total, Tensor)
    assert total.ndim == 0, "discriminator_losses: no scalars"
    total.backward()
    for name, parameter in adversary.named_parameters():
        assert parameter.grad is not None, f"discriminator_losses: {name} gets no gradient"
    assert all(p.grad is None for p in generator.parameters()), "discriminator_losses: gradients reach the generator"
    total = sum(adversary.generator_losses(fake, conditions, random).values())
    assert isinstance(total, Tensor)
    total.backward()
    assert any(p.grad is not None for p in generator.parameters()), "generator_losses: no gradient for the generator"
    generator.zero_grad(set_to_none=True)
    adversary.zero_grad(set_to_none=True)


def check_export(generator: VideoGenerator, exported: VideoGenerator) -> None:
    """What is exported makes the clips that the trained generator makes in evaluation mode."""
    assert not exported.training, "for_export: not in evaluation mode"
    noise, conditions = _inputs(generator)
    trained = generator.eval().generate(noise, conditions)
    generator.train()
    _assert_close(exported.generate(noise, conditions), trained, "for_export: other clips")


def check_clips_fit_the_spec(generator: VideoGenerator) -> None:
    spec, (noise, conditions) = generator.spec, _inputs(generator)
    video = generator.generate(noise, conditions)
    shape = (CLIPS, 3, spec.frames, spec.framing.height, spec.framing.width)
    assert video.shape == shape, f"generate: shape {tuple(video.shape)}, expected {shape}"
    assert video.abs().max() <= 1, f"generate: pixels reach {video.abs().max():.3g}, outside [-1, 1]"
    assert not video.requires_grad, "generate: records gradients"
    if conditions.given is not None:
        assert torch.equal(video[:, :, : spec.given_frames], conditions.given), "generate: given frames are changed"
    if conditions.end is not None:
        assert torch.equal(video[:, :, -1], conditions.end), "generate: the end frame is changed"
    if spec.channels == 1:
        own = video[:, :, spec.given_frames : spec.frames - spec.end_frame]
        assert torch.equal(own[:, :1].expand_as(own), own), "generate: a grey generator's channels differ"
    assert torch.equal(video, generator.generate(noise, conditions)), "generate: the same noise gives another video"


def check_no_leak_across_clips(generator: VideoGenerator) -> None:
    """A clip is the same alone, in any order, and beside any other."""
    noise, conditions = _inputs(generator)
    video = generator.generate(noise, conditions)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = generator.generate(noise[order], conditions.select(order))
    _assert_close(shuffled, video[order], "generate: a clip depends on its place in the batch")
    alone = generator.generate(noise[2:3], conditions.select(slice(2, 3)))
    _assert_close(alone, video[2:3], "generate: a clip depends on the others of its batch")
    other = noise.clone()
    other[1] = -other[1]
    changed = generator.generate(other, conditions)
    rest = [0, 2, 3, 4]
    _assert_close(changed[rest], video[rest], "generate: another clip's noise changes a clip")


def check_noise_matters(generator: VideoGenerator) -> None:
    noise, conditions = _inputs(generator)
    video, other = generator.generate(noise, conditions), generator.generate(-noise, conditions)
    assert (video - other).abs().amax((1, 2, 3, 4)).min() > CLOSE, "generate: noise does not change the video"


def check_conditions_matter(generator: VideoGenerator) -> None:
    """Each condition changes the frames that are generated."""
    noise, conditions = _inputs(generator)
    spec = generator.spec
    own = slice(spec.given_frames, spec.frames - spec.end_frame)
    video = generator.generate(noise, conditions)[:, :, own]
    for name, changed in _changed_conditions(generator, conditions):
        other = generator.generate(noise, changed)[:, :, own]
        assert (video - other).abs().max() > CLOSE, f"generate: {name} does not change the generated frames"


def check_wrong_conditions(generator: VideoGenerator) -> None:
    """What is missing, too much or of another size is refused with its name."""
    noise, conditions = _inputs(generator)
    spec = generator.spec
    size = (spec.framing.height + 1, spec.framing.width)
    wrong = {
        "noise": (noise[:, 1:], conditions),
        "given": (noise, dataclasses.replace(conditions, given=torch.zeros(CLIPS, 3, spec.given_frames or 1, *size))),
        "end": (noise, dataclasses.replace(conditions, end=torch.zeros(CLIPS, 3, *size))),
        "classes": (noise, dataclasses.replace(conditions, classes=torch.zeros(CLIPS, len(spec.classes) + 1))),
    }
    for name, value in dataclasses.asdict(conditions).items():
        if value is not None:
            wrong[f"{name} is missing"] = (noise, dataclasses.replace(conditions, **{name: None}))
    for name, inputs in wrong.items():
        with pytest.raises(ConfigError, match=name.split()[0]):  # the message names it
            generator.generate(*inputs)


def check_saved(generator: VideoGenerator) -> None:
    """Saved and loaded it makes the same clips, also where it is saved as it was trained."""
    noise, conditions = _inputs(generator)
    video = generator.for_export().generate(noise, conditions)
    with tempfile.TemporaryDirectory() as folder:
        generator.save_pretrained(folder)
        loaded = VideoGenerator.from_pretrained(Path(folder))
        assert type(loaded) is type(generator), f"from_pretrained: a {type(loaded).__name__}"
        assert loaded.spec == generator.spec, "from_pretrained: another spec"
        assert torch.equal(loaded.generate(noise, conditions), video), "from_pretrained: other clips"


def check_meta_device(generator: VideoGenerator) -> None:
    """It can be built and run without memory, to learn its size."""
    spec = generator.spec
    with torch.device("meta"):
        built = build_generator(generator.to_document()["config"], spec.frames, spec.framing, spec.classes)
        noise, conditions = torch.empty(CLIPS, spec.noise), meta_conditions(built, CLIPS)
    assert built(noise, conditions).shape == generator(*_inputs(generator)).shape, "forward: other shapes on meta"


def meta_conditions(generator: VideoGenerator, count: int) -> Conditions:
    """Conditions without values, for shapes and counts of parameters at any size."""
    spec = generator.spec
    size = (spec.framing.height, spec.framing.width)
    return Conditions(
        given=torch.empty(count, 3, spec.given_frames, *size, device="meta") if spec.given_frames else None,
        end=torch.empty(count, 3, *size, device="meta") if spec.end_frame else None,
        classes=torch.empty(count, len(spec.classes), device="meta") if spec.classes else None,
    )


def _inputs(generator: VideoGenerator, seed: int = 0) -> tuple[Tensor, Conditions]:
    noise = sample_noise(seed, np.arange(CLIPS), generator.spec.noise)
    return noise, random_conditions(generator, CLIPS, seed)


def _changed_conditions(generator: VideoGenerator, conditions: Conditions) -> Iterator[tuple[str, Conditions]]:
    """Copies of the conditions of which one is changed, and its name; single frames one by one."""
    if conditions.given is not None:
        for frame in range(generator.spec.given_frames):
            given = conditions.given.clone()
            given[:, :, frame] = -given[:, :, frame]
            yield f"given frame {frame}", dataclasses.replace(conditions, given=given)
    if conditions.end is not None:
        yield "the end frame", dataclasses.replace(conditions, end=-conditions.end)
    if conditions.classes is not None:
        yield "the class", dataclasses.replace(conditions, classes=conditions.classes.roll(1, 1))


def _assert_close(found: Tensor, expected: Tensor, message: str) -> None:
    difference = (found - expected).abs().max().item()
    assert difference < CLOSE, f"{message}: pixels differ by up to {difference:.3g}"
