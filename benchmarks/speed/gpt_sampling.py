r"""Sampling from our GPT, against x-transformers' generate with its key/value cache, interleaved in one process.

    python -m tokenreel.benchmarks.speed.gpt_sampling [--rounds 3] [--batches 1 8] [--precision fp32 bf16] \
        [--length 1024] [--speculate 4]

One thread, every token of a clip sampled at temperature 1. Prints two lines for each precision and batch, without and
with speculative decoding: tokens per second over all rows, and the speed relative to x-transformers with flash
attention and with its defaults. Weights are random, except our last layer, which gives one code a probability of
0.87 everywhere, so that about three of four drafted tokens are accepted; the cost of a step does not depend on them.
Requires x-transformers (pip install x-transformers). At full length this takes several minutes.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenreel.benchmarks.speed.gpt_setup import DTYPES, LENGTH, interleaved, millions, our_gpt, peer_gpt, ratio
from tokenreel.priors.gpt.model import GPT
from tokenreel.priors.sampling.logits import SamplingConfig
from tokenreel.priors.sampling.video import Samples, sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precision", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a clip, a multiple of 64")
    parser.add_argument("--speculate", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = our_gpt(options.length), peer_gpt(True, options.length), peer_gpt(False, options.length)
    print(f"parameters: tokenreel {millions(models[0]):.1f} M, x-transformers {millions(models[1]):.1f} M")  # noqa: T201
    repeat_one_code(models[0], 0.87)
    for precision in options.precision:
        for model in models:
            model.to(DTYPES[precision]).eval()
        ours, flash, default = models
        for batch in options.batches:
            speculative = our_sampling(ours, batch, options.speculate)
            calls: dict[str, Callable[[], object]] = {
                "plain": our_sampling(ours, batch, 0),
                "speculative": speculative,
                "flash": peer_sampling(flash, batch, options.length),
                "default": peer_sampling(default, batch, options.length),
            }
            seconds = interleaved(calls, options.rounds)
            for name in ("plain", "speculative"):
                print(  # noqa: T201
                    f"{precision}, batch {batch}, {name}: "
                    f"tokenreel {batch * options.length / statistics.median(seconds[name]):.0f} tokens/s, "
                    f"{ratio(seconds['flash'], seconds[name]):.2f} times x-transformers with flash, "
                    f"{ratio(seconds['default'], seconds[name]):.2f} times its default "
                    f"(goal {1.8 if batch == 1 else 2.0})"
                )
            print(f"  {speculative().tokens_per_forward:.2f} tokens per forward pass with speculative decoding")  # noqa: T201


def repeat_one_code(model: GPT, probability: float) -> None:
    """Gives code 0 this probability at every position, and all others equal ones."""
    with torch.no_grad():
        model.transformer.norm.weight.zero_()
        model.transformer.norm.bias.zero_()[0] = 1
        outputs: Tensor = model.output.linear.weight.zero_()
        outputs[0, 0] = math.log(probability / (1 - probability) * (len(outputs) - 1))


def our_sampling(model: GPT, batch: int, speculate: int) -> Callable[[], Samples]:
    config, rows = SamplingConfig(speculate=speculate), torch.arange(batch)
    return lambda: sample(model, {}, None, config, seed=0, samples=rows)


def peer_sampling(model: Any, batch: int, length: int) -> Callable[[], Tensor]:
    prompt = torch.zeros(batch, 1, dtype=torch.long)

    @torch.no_grad()
    def generate() -> Tensor:
        return model.generate(prompt, length, cache_kv=True)

    return generate


if __name__ == "__main__":
    main()
