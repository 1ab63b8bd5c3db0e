"""One of two gloo processes of test_batch_norm.py: `batch_norm_script.py FOLDER RANK` normalises half of each batch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenreel.decoders.layers.batch_norm import BatchNorm, standing_statistics

_RNG = torch.Generator().manual_seed(1)
INPUTS = [torch.randn(10, 3, 7, 2, 5, generator=_RNG, dtype=torch.float64) * 3 + step for step in range(3)]
TARGET = torch.randn(3, 7, 2, 5, generator=_RNG, dtype=torch.float64)  # makes the loss depend on every value


def new_norms() -> nn.ModuleDict:
    return nn.ModuleDict({"plain": BatchNorm(3), "steps": BatchNorm(3, steps=7)}).double()


def trained(norms: nn.ModuleDict, inputs: list[Tensor]) -> dict[str, Tensor]:
    """Outputs and gradients of the last step, gradients of parameters of all steps, and running statistics."""
    result: dict[str, Tensor] = {}
    for name, norm in norms.items():
        for x in inputs:
            output = norm(x.requires_grad_())
            (output - TARGET).pow(4).mean((1, 2, 3, 4)).mean().backward()
        found = {"output": output.detach(), "input_gradient": x.grad, "weight": norm.weight.grad}
        found |= {"bias": norm.bias.grad, "running_mean": norm.running_mean, "running_var": norm.running_var}
        result |= {f"{name}.{key}": tensor for key, tensor in found.items()}
        for x in inputs:
            x.grad = None
    return result


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    tensors = trained(new_norms(), [x.chunk(2)[rank].clone() for x in INPUTS])
    alone = BatchNorm(3, steps=7).double().eval()
    with standing_statistics(alone):
        alone(INPUTS[0].chunk(2)[rank])
    save_file({**tensors, "standing": alone.running_mean}, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
