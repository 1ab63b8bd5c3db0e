"""Parameters and sizes of layers at the paper's sizes, without memory for them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import VideoGenerator, build_generator
from tokenreel.decoders.generators.inbetweening.adversary import InbetweeningAdversary
from tokenreel.decoders.generators.inbetweening.generator import Inbetweening
from tokenreel.testing.generators import meta_conditions

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)


def built(side: int = 64, **config: object) -> Inbetweening:
    with torch.device("meta"):
        generator = build_generator({"type": "inbetweening", **config}, 16, Framing(side, side))
    assert isinstance(generator, Inbetweening)
    return generator


def adversary_of(generator: VideoGenerator, **config: object) -> InbetweeningAdversary:
    with torch.device("meta"):
        adversary = generator.new_adversary(config)
    assert isinstance(adversary, InbetweeningAdversary)
    return adversary


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def sizes(network: nn.Module, inputs: Tensor) -> list[tuple[int, ...]]:
    """Of the outputs of all convolutions, in their order, without the batch."""
    found: list[tuple[int, ...]] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, output: found.append(tuple(output.shape[1:])))
        for layer in network.modules()
        if isinstance(layer, CONVOLUTIONS)
    ]
    network(inputs)
    for hook in hooks:
        hook.remove()
    return found


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def test_parameters_of_the_generator() -> None:
    generator = built()
    parts = (generator, generator.encoder, generator.latents, generator.video)
    assert [parameters(part) for part in parts] == [14_382_019, 1_582_912, 8_056_320, 4_742_787]
    blocks = generator.latents.get_submodule("blocks").children()
    assert [parameters(block) for block in blocks] == [291_648] * 8 + [324_672] * 8 + [390_720] * 8


def test_parameters_of_grey_clips() -> None:
    generator = built(channels=1)
    parts = (generator, generator.encoder, generator.video)
    assert [parameters(part) for part in parts] == [14_373_825, 1_580_864, 4_736_641]


def test_parameters_of_the_baselines() -> None:
    assert parameters(built(fusion="none").latents) == 7_463_424
    naive = built(fusion="naive")
    parts = (naive, naive.latents, naive.video)
    assert [parameters(part) for part in parts] == [6_992_387, 8_256, 5_401_219]


def test_parameters_of_the_discriminators() -> None:
    adversary = adversary_of(built())
    assert parameters(adversary.video) == 11_057_985
    assert parameters(adversary.image) == 3_715_419


def test_layers_of_the_image_encoder() -> None:
    expected = [(64, 32, 32)] * 2 + [(128, 16, 16)] * 2 + [(256, 8, 8)] * 2 + [(64, 8, 8)]
    assert sizes(built().encoder, meta(2, 3, 64, 64)) == expected


def test_layers_of_the_video_generator() -> None:
    wide = [(256, 16, 8, 8)] * 2 + [(128, 16, 16, 16)] * 2 + [(64, 16, 32, 32)] * 2
    assert sizes(built().video, meta(2, 64, 16, 8, 8)) == [*wide, (3, 16, 64, 64)]


def test_the_naive_video_generator_doubles_in_time_as_well() -> None:
    wide = [(256, 2, 8, 8)] * 2 + [(128, 4, 16, 16)] * 2 + [(64, 8, 32, 32)] * 2
    assert sizes(built(fusion="naive").video, meta(2, 64, 2, 8, 8)) == [*wide, (3, 16, 64, 64)]


def test_layers_of_the_video_discriminator() -> None:
    network = adversary_of(built()).video
    expected = [(64, 13, 32, 32), (128, 10, 16, 16), (256, 7, 8, 8), (512, 4, 4, 4)]
    assert sizes(network, meta(2, 3, 16, 64, 64)) == expected


def test_layers_of_the_image_discriminator() -> None:
    """A 3 x 3 and a 4 x 4 convolution, and the shortcut before them, on each grid."""
    network = adversary_of(built()).image
    grids = [((3, 64, 64), (64, 32, 32)), ((64, 32, 32), (128, 16, 16))]
    grids += [((128, 16, 16), (256, 8, 8)), ((256, 8, 8), (512, 4, 4))]
    assert sizes(network, meta(2, 3, 64, 64)) == flat((after, before, after) for before, after in grids)


def flat(rows: Iterable[Iterable[tuple[int, ...]]]) -> list[tuple[int, ...]]:
    return [item for row in rows for item in row]


@pytest.mark.parametrize("frames", [4, 8, 16, 32])
def test_latents_double_from_two_steps_to_all_frames(frames: int) -> None:
    with torch.device("meta"):
        generator = build_generator({"type": "inbetweening", "blocks": 12}, frames, Framing(64, 64))
    assert isinstance(generator, Inbetweening)
    key_frames = meta(2, 3, 64, 8, 8)
    steps = [latents.shape[2] for latents in generator.latents.outputs(*key_frames, meta(3, 128))]  # type: ignore[operator]
    stages = {4: [4], 8: [4, 8], 16: [4, 8, 16], 32: [4, 8, 16, 32]}[frames]
    assert steps == [stage for stage in stages for _ in range(12 // len(stages))]
    assert generator(meta(3, 128), meta_conditions(generator, 3)).shape == (3, 3, frames, 64, 64)
