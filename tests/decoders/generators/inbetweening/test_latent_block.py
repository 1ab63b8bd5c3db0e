"""A block of the latent generator against equations 1 to 5 of the paper, written out with loops over kernel taps."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from tokenreel.decoders.generators.inbetweening.latents import LatentBlock, LatentGenerator

B, D, C, STEPS, HEIGHT, WIDTH = 2, 11, 3, 5, 2, 7


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def over_time(v: Tensor, kernel: nn.Conv1d) -> Tensor:
    """v [B, t, C] -> [B, t, C]"""
    padded = torch.zeros(len(v), STEPS + 2, C, dtype=v.dtype)
    padded[:, 1:-1] = v
    taps = [padded[:, tap : tap + STEPS] @ kernel.weight[:, :, tap].T for tap in range(3)]
    return torch.stack(taps).sum(0) + kernel.bias


def over_all(z: Tensor, kernel: nn.Conv3d) -> Tensor:
    """z [B, C, t, h, w] -> the same, zeros outside."""
    padded = torch.zeros(len(z), C, STEPS + 2, HEIGHT + 2, WIDTH + 2, dtype=z.dtype)
    padded[:, :, 1:-1, 1:-1, 1:-1] = z
    total = torch.zeros_like(z)
    for t, y, x in itertools.product(range(3), repeat=3):
        part = padded[:, :, t : t + STEPS, y : y + HEIGHT, x : x + WIDTH]
        total += torch.einsum("oi,bithw->bothw", kernel.weight[:, :, t, y, x], part)
    assert kernel.bias is not None
    return total + kernel.bias.view(C, 1, 1, 1)


def normalised(z: Tensor) -> Tensor:
    """Batch norm with a scale of 1 and an offset of 0."""
    mean, variance = z.mean((0, 2, 3, 4), keepdim=True), z.var((0, 2, 3, 4), correction=0, keepdim=True)
    return (z - mean) / (variance + 1e-5).sqrt()


def leaky(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, 0.2 * z)


@pytest.mark.parametrize("gated", [True, False])
def test_a_block_is_the_equations(gated: bool) -> None:
    torch.manual_seed(1)
    block = LatentBlock(D, C, STEPS, gated).double()
    u, z = tensor(B, D), tensor(B, C, STEPS, HEIGHT, WIDTH, seed=1)
    start, end = tensor(B, C, HEIGHT, WIDTH, seed=2), tensor(B, C, HEIGHT, WIDTH, seed=3)
    with torch.no_grad():
        linear = block.project_noise[0]
        v = torch.stack([(linear.weight @ row + linear.bias).view(STEPS, C) for row in u])  # 1
        n = over_time(v, block.addition)
        fused = torch.zeros_like(z)
        for b, t, c in itertools.product(range(B), range(STEPS), range(C)):
            if gated:
                gs = over_time(v, block.start_gate).sigmoid()[b, t, c]  # 2
                ge = over_time(v, block.end_gate).sigmoid()[b, t, c]  # 3
                rest = max(torch.zeros(()).double(), 1 - gs - ge)
                fused[b, c, t] = gs * start[b, c] + ge * end[b, c] + rest * z[b, c, t] + n[b, t, c]  # 4
            else:
                fused[b, c, t] = z[b, c, t] + n[b, t, c]  # section 4.2
        inner = leaky(normalised(over_all(fused, block.first)))
        expected = leaky(z + normalised(over_all(inner, block.second)))  # 5
        torch.testing.assert_close(block(z, start, end, u), expected)


def test_gates_that_exceed_one_leave_nothing_of_the_previous_block() -> None:
    """Only its residual connection."""
    torch.manual_seed(1)
    block = LatentBlock(D, C, STEPS, gated=True).double()
    assert block.start_gate is not None
    assert block.start_gate.bias is not None
    nn.init.constant_(block.start_gate.bias, 37.0)
    gates = block.gates(block.own_noise(tensor(B, D)))
    assert gates is not None
    assert gates.start.min() > 0.99
    assert gates.rest.max() == 0


def test_the_first_stage_begins_with_each_key_frame_twice() -> None:
    generator = LatentGenerator(D, C, blocks=3, frames=16, gated=False).double()
    seen: list[Tensor] = []
    generator.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    start, end = tensor(B, C, HEIGHT, WIDTH, seed=2), tensor(B, C, HEIGHT, WIDTH, seed=3)
    generator(start, end, tensor(B, D))
    assert torch.equal(seen[0], torch.stack([start, start, end, end], 2))
