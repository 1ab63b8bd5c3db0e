"""One of two gloo processes of conftest.py: `replica_script.py FOLDER RANK` trains quantizers on data of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from tokenreel.replicas import micro_steps
from tokenreel.tokenizers.quantizers.rvq import RVQ, RVQConfig
from tokenreel.tokenizers.quantizers.vq import VQ, VQConfig


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    torch.manual_seed(17)
    plain = VQ(VQConfig(codebook_size=7, init="uniform", decay=0.8), 3).train()
    alive = VQ(VQConfig(codebook_size=23, init="kmeans", decay=0.8, revive_below=0.3), 3).train()
    residual = RVQ(RVQConfig(codebook_size=11, codebooks=3, init="kmeans", decay=0.8, revive_below=0.3), 3).train()
    random = VQ(VQConfig(codebook_size=7, init="kmeans", decay=0.8, revive_below=0.5), 3).train()
    split = VQ(VQConfig(codebook_size=7, init="kmeans", decay=0.8, revive_below=0.5), 3).train()
    start = {f"start.{name}": tensor.clone() for name, tensor in plain.state_dict().items()}
    torch.manual_seed(rank)  # other data and random numbers
    latents = torch.randn(3, 2, 3, 1, 5, 7) + rank
    for number, step in enumerate(latents):
        plain(step)
        torch.manual_seed(number)  # alike in both, as in training
        random(step)
        train_in_micro_steps(split, step.unsqueeze(1), number)
    for step in range(12):
        alive(torch.randn(2, 3, 1, 5, 7) * (rank + 1))
        residual(torch.randn(2, 3, 1, 5, 7) * (rank + 1))
        if step == 0:
            _put_out_of_reach(alive, code=3)
            _put_out_of_reach(residual.stages[1], code=5)
    trained = {"plain": plain, "random": random, "split": split, "alive": alive, "residual": residual}
    state = {f"{name}.{key}": t for name, module in trained.items() for key, t in module.state_dict().items()}
    save_file({**start, **state, "latents": latents}, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


def train_in_micro_steps(vq: VQ, latents: Tensor, seed: int) -> None:
    """A step on the latents of micro-steps, [n, B, D, t, h, w]."""
    torch.manual_seed(seed)
    if vq.needs_data:
        with micro_steps(range(len(latents)), len(latents)):
            vq.initialise(list(latents))
    for number, micro in enumerate(latents):
        torch.manual_seed(seed)
        with micro_steps(range(number, number + 1), len(latents)):
            vq(micro)


def _put_out_of_reach(vq: VQ, code: int) -> None:
    vq.codebook[0, code] = 1e3
    vq.average_sum[0, code] = 1e3 * vq.average_count[0, code]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
