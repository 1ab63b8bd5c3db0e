"""DVD-GAN at the sizes of the paper, without memory: parameters counted layer by layer, and what passes each group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenreel.config import load_preset
from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import build_generator
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.generators.dvd_gan.generator import DVDGAN

MULTIPLIERS = {64: [8, 8, 8, 4, 2], 128: [8, 8, 8, 4, 2, 1], 256: [8, 8, 8, 4, 4, 2, 1]}  # the last is extrapolated
OF_DISCRIMINATORS = {64: [2, 4, 8, 16, 16], 128: [1, 2, 4, 8, 16, 16], 256: [1, 2, 4, 8, 8, 16, 16]}
# side, classes, given frames -> parameters with `first_group` keep and double
GENERATORS = {
    (64, 600, 0): (401_627_459, 305_282_371),
    (128, 600, 0): (231_527_235, 176_963_139),
    (256, 600, 0): (245_686_083, 191_121_987),
    (128, 101, 0): (231_467_355, 176_903_259),
    (64, 0, 5): (820_161_915, 629_443_963),
    (64, 0, 1): (607_825_275, 492_604_795),
}
# side, classes -> parameters of the spatial and the temporal discriminator
DISCRIMINATORS = {
    (64, 600): (154_411_777, 162_683_137),
    (128, 600): (87_356_449, 88_522_849),
    (128, 101): (86_589_985, 87_756_385),
    (256, 600): (98_565_409, 99_731_809),
    (64, 0): (153_185_025, 161_456_385),
}
GRIDS = {64: [4, 4, 8, 16, 32], 128: [4, 4, 8, 16, 32, 64], 256: [4, 4, 8, 16, 32, 64, 128]}
WIDTHS = {  # of the GRUs, and of the output
    64: [1024, 1024, 1024, 1024, 512, 256],
    128: [768, 768, 768, 768, 384, 192, 96],
    256: [768, 768, 768, 768, 384, 384, 192, 96],
}


def _generator(side: int, classes: int = 0, given: int = 0, frames: int = 12, **settings: Any) -> DVDGAN:
    section = {
        "type": "dvd-gan",
        "width": 128 if side == 64 else 96,
        "multipliers": MULTIPLIERS[side],
        "class_conditional": classes > 0,
        "given_frames": given,
        "given_multipliers": OF_DISCRIMINATORS[side] if given else [],
        **settings,
    }
    with torch.device("meta"):
        generator = build_generator(section, frames, Framing(side, side), tuple(map(str, range(classes))))
    assert isinstance(generator, DVDGAN)
    return generator


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", GENERATORS)
def test_parameters_of_the_generator_with_one_group_fewer(size: tuple[int, int, int]) -> None:
    """Those of the other reading are the presets', below."""
    assert _count(_generator(*size, first_group="double")) == GENERATORS[size][1]


@pytest.mark.parametrize(
    ("preset", "frames", "size"),
    [
        ("dvdgan-kinetics-paper", 12, (64, 600, 0)),
        ("dvdgan-kinetics-paper-128", 12, (128, 600, 0)),
        ("dvdgan-kinetics-paper-256", 12, (256, 600, 0)),
        ("dvdgan-kinetics-paper-48", 48, (64, 600, 0)),
        ("dvdgan-kinetics-paper-48-128", 48, (128, 600, 0)),
        ("dvdgan-kinetics-fp-paper", 16, (64, 0, 5)),
        ("dvdgan-bair-fp-paper", 16, (64, 0, 1)),
        ("dvdgan-ucf101-paper", 16, (128, 101, 0)),
    ],
)
def test_presets_have_these_sizes(preset: str, frames: int, size: tuple[int, int, int]) -> None:
    side, classes, given = size
    with torch.device("meta"):
        generator = DVDGAN.from_preset(preset, tuple(map(str, range(classes))))
        adversary = generator.new_adversary(load_preset(preset)["discriminators"])
    assert (generator.spec.frames, generator.spec.given_frames) == (frames, given)
    assert _count(generator) == GENERATORS[size][0]
    assert (_count(adversary.spatial), _count(adversary.temporal)) == DISCRIMINATORS[side, classes]


@pytest.mark.parametrize("first_group", ["keep", "double"])
@pytest.mark.parametrize("side", [64, 128, 256])
def test_what_passes_each_group(side: int, first_group: str) -> None:
    generator = _generator(side, frames=3, first_group=first_group)
    passed: list[tuple[Tensor, Tensor]] = []
    for group in generator.groups:
        group.gru.register_forward_hook(lambda module, inputs, output: passed.append((inputs[0], output)))
    with torch.device("meta"):
        video = generator.eval()(torch.empty(2, 120), Conditions())
    assert video.shape == (2, 3, 3, side, side)
    first = int(first_group == "double")
    grids, widths = GRIDS[side][first:], WIDTHS[side][first:]
    assert [states.shape for _, states in passed] == [
        (2, 3, width, grid, grid) for width, grid in zip(widths[:-1], grids, strict=True)
    ]
    assert passed[0][0].shape[1] == 1  # the first group's input is one for all frames
    assert generator.pixels.in_channels == widths[-1]


def test_layers_of_the_published_size() -> None:
    generator = _generator(64, 600)
    millions = [[round(_count(part) / 1e6, 2) for part in (g.gru, g.keep, g.change)] for g in generator.groups]
    assert millions == [
        [56.63, 19.86, 19.86],
        [56.63, 19.86, 20.91],
        [56.63, 19.86, 20.91],
        [56.63, 19.86, 8.34],
        [14.16, 5.21, 2.27],
    ]
    assert (_count(generator.final_norm), _count(generator.pixels)) == (512, 6915)


def test_the_finest_features_of_given_frames_go_to_the_last_group() -> None:
    generator = _generator(64, given=5, frames=16)
    encoder = generator.frame_encoder
    states = [(conv.in_channels, conv.out_channels) for conv in encoder.states]
    assert states == [(10240, 1024), (10240, 1024), (5120, 1024), (2560, 1024), (1280, 512)]
    made: list[Tensor] = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: made.append(output))
    used = [[] for _ in generator.groups]
    for group, seen in zip(generator.groups, used, strict=True):
        group.gru.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[1].shape))
    with torch.device("meta"):
        generator.eval()(torch.empty(2, 120), Conditions(given=torch.empty(2, 3, 5, 64, 64)))
    assert [tensor.shape[1:] for tensor in made] == [
        (256, 32, 32),
        (512, 16, 16),
        (1024, 8, 8),
        (2048, 4, 4),
        (2048, 4, 4),
    ]
    assert [seen[0][1:] for seen in used] == [(1024, 4, 4), (1024, 4, 4), (1024, 8, 8), (1024, 16, 16), (512, 32, 32)]
    assert encoder.sources == [4, 3, 2, 1, 0]  # the block of each group
    assert _generator(64, given=1, frames=16, first_group="double").frame_encoder.sources == [4, 2, 1, 0]
