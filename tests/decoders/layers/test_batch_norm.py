"""Batch normalisation against torch's own and against a loop over time steps, with one and two processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.decoders.layers.batch_norm_script import INPUTS, new_norms, trained
from torch import nn

from tokenreel.decoders.layers.batch_norm import BatchNorm, standing_statistics, unchanged_statistics

SCRIPT = Path(__file__).with_name("batch_norm_script.py")


def _input(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 + 2


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (5, 3, 7, 2), (5, 3, 7, 2, 11)])
def test_equals_torch(shape: tuple[int, ...]) -> None:
    ours = BatchNorm(3).double()
    reference = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](3).double()
    for module in (ours, reference):
        with torch.no_grad():
            module.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
            module.bias.copy_(torch.tensor([1.0, -2.0, 0.25]))
    for _ in range(3):
        torch.testing.assert_close(ours(_input(*shape)), reference(_input(*shape)))
    torch.testing.assert_close(ours.running_mean, reference.running_mean)
    torch.testing.assert_close(ours.running_var, reference.running_var)
    torch.testing.assert_close(ours.eval()(_input(*shape)), reference.eval()(_input(*shape)))


def test_each_step_has_its_own_statistics() -> None:
    x = _input(5, 3, 7, 2, 11)
    norm = BatchNorm(3, steps=7, affine=False).double()
    frames = [nn.BatchNorm2d(3, affine=False).double() for _ in range(7)]
    expected = torch.stack([frame(x[:, :, step]) for step, frame in enumerate(frames)], 2)
    torch.testing.assert_close(norm(x), expected)
    running = torch.stack([frame.eval()(x[:, :, step]) for step, frame in enumerate(frames)], 2)
    torch.testing.assert_close(norm.eval()(x), running)


def test_nothing_flows_between_steps() -> None:
    x = _input(5, 3, 7, 2, 11)
    changed = x.clone()
    changed[:, :, 4] *= -3
    norm = BatchNorm(3, steps=7).double()
    others = [0, 1, 2, 3, 5, 6]
    assert torch.equal(norm(x)[:, :, others], norm(changed)[:, :, others])


def test_standing_statistics_are_means_over_batches() -> None:
    norms = nn.ModuleDict({"by step": BatchNorm(3, steps=7), "one": BatchNorm(3)}).double().eval()
    batches = [_input(5, 3, 7, 2, 11) * scale + scale for scale in (1, 2, 5)]
    with standing_statistics(norms):
        for batch in batches:
            reference = nn.BatchNorm3d(3).double()(batch)
            torch.testing.assert_close(norms["one"](batch), reference)  # by the batch's own
            norms["by step"](batch)
    for name, dims in (("by step", (0, 3, 4)), ("one", (0, 2, 3, 4))):
        for found, statistic in ((norms[name].running_mean, torch.mean), (norms[name].running_var, torch.var)):
            expected = torch.stack([statistic(batch, dims) for batch in batches]).mean(0)
            torch.testing.assert_close(found, expected.flatten())
    assert torch.equal(norms["one"](batches[0][:2]), norms["one"](batches[0])[:2])  # in evaluation mode again


def test_statistics_can_be_held() -> None:
    norm = BatchNorm(3).double()
    expected = norm(_input(5, 3, 7))
    before = norm.running_mean.clone(), norm.running_var.clone()
    with unchanged_statistics(norm):
        assert torch.equal(norm(_input(5, 3, 7)), expected)
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    norm(_input(5, 3, 7))
    assert not torch.equal(norm.running_mean, before[0])


def test_two_processes_do_what_one_does_with_the_whole_batch(tmp_path: Path) -> None:
    commands = [[sys.executable, str(SCRIPT), str(tmp_path), str(rank)] for rank in range(2)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    halves = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    norms = new_norms()
    expected = trained(norms, [x.clone() for x in INPUTS])
    for name, tensor in expected.items():
        first, second = (half[name] for half in halves)
        kind = name.rsplit(".", 1)[1]
        if kind in ("output", "input_gradient"):  # of the process's own half; each loss is the mean over a half
            joined = torch.cat([first, second]) * (0.5 if kind == "input_gradient" else 1)
            torch.testing.assert_close(joined, tensor)
        elif kind.startswith("running"):
            torch.testing.assert_close(first, tensor)
            assert torch.equal(first, second)
        else:  # gradients of parameters are averaged over processes
            torch.testing.assert_close((first + second) / 2, tensor)
    for rank, half in enumerate(halves):  # standing statistics are those of one process
        alone = BatchNorm(3, steps=7).double().eval()
        with standing_statistics(alone):
            alone(INPUTS[0].chunk(2)[rank])
        assert torch.equal(half["standing"], alone.running_mean)
