"""Training steps of our GPT against x-transformers', forward and backward, interleaved in one process.

    python -m tokenreel.benchmarks.speed.gpt_training [--rounds 5] [--batches 1 4] [--precision fp32 bf16]

One thread. Prints a line for each precision and batch: tokens per second, and the speed relative to x-transformers with
flash attention and with its defaults. bf16 is autocast for both. Requires x-transformers (pip install x-transformers).
Each line takes a minute or two.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tokenreel.benchmarks.speed.gpt_setup import (
    CODEBOOK_SIZE,
    DTYPES,
    LENGTH,
    interleaved,
    millions,
    our_gpt,
    peer_gpt,
    ratio,
)
from tokenreel.priors.gpt.model import GPT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precision", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours, flash, default = our_gpt(), peer_gpt(flash=True), peer_gpt(flash=False)
    print(f"parameters: tokenreel {millions(ours):.1f} M, x-transformers {millions(flash):.1f} M")  # noqa: T201
    for precision in options.precision:
        for batch in options.batches:
            flat = torch.randint(CODEBOOK_SIZE, (batch, LENGTH))
            calls = {
                "ours": training_step(ours, precision, our_loss(ours, flat)),
                "flash": training_step(flash, precision, peer_loss(flash, flat)),
                "default": training_step(default, precision, peer_loss(default, flat)),
            }
            interleaved(calls, 1)  # the first call of each allocates
            seconds = interleaved(calls, options.rounds)
            print(  # noqa: T201
                f"{precision}, batch {batch}: "
                f"tokenreel {flat.numel() / statistics.median(seconds['ours']):.0f} tokens/s, "
                f"{ratio(seconds['flash'], seconds['ours']):.2f} times x-transformers with flash (goal 1), "
                f"{ratio(seconds['default'], seconds['ours']):.2f} times its default (goal at batch 4: 2)"
            )


def training_step(model: nn.Module, precision: str, loss: Callable[[], Tensor]) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()

    return step


def our_loss(model: GPT, flat: Tensor) -> Callable[[], Tensor]:
    tokens, given = model.unflatten(flat), torch.zeros(flat.shape, dtype=torch.bool)
    return lambda: model.loss(tokens, given)


def peer_loss(model: nn.Module, flat: Tensor) -> Callable[[], Tensor]:
    """Its wrapper predicts every token except the first; with one more in front it predicts as many as ours."""
    padded = torch.cat([flat[:, :1], flat], 1)
    return lambda: model(padded)


if __name__ == "__main__":
    main()
