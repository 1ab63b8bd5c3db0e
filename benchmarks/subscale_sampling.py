"""Sampling one video from LVT's prior at the paper's size, beside the same model computing a slice anew for each place.

    python benchmarks/subscale_sampling.py [--prime 5] [--batch 1] [--recomputed 1] [--device cpu]

16 frames of 16 x 16 places with 4 codebooks of 512 codes, single-frame slices, each attention of the paper's table 7.
Recomputing is what the published code does (https://github.com/rakhimovv/lvt): the encoder once for each slice, the
decoder over the whole slice for each of its places, then the codebooks of that place one after the other. It runs through
the same sampler with the same random numbers for `--recomputed` frames, every one of which costs the same; that its codes
are ours is checked. The paper's inference times, on a V100: 35, 32 and 30 seconds. Weights are random: the cost of a code
does not depend on them. One thread. Prints seconds for all frames, and how many times as fast ours is.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from tokenreel.priors.base import Prior
from tokenreel.priors.sampling import Samples, sample_video
from tokenreel.priors.subscale.targets import Part
from tokenreel.priors.subscale.transformer import SubscaleState, SubscaleTransformer

PRESETS = ("lvt-bair-paper", "lvt-bair-paper-key", "lvt-bair-paper-relative")
FRAMES = 16


class Recomputing(SubscaleTransformer):
    """Keeps the encoder's output of a slice, as the published code does, and nothing else."""

    def _compute_places(self, state: SubscaleState, parts: list[Part], first: list[int]) -> None:
        if max(part.last // self.codebooks - at for part, at in zip(parts, first, strict=True)) < 0:
            return  # the place has been computed, for its first codebook
        rows = [part.row for part in parts]
        index = [part.slice for part in parts]
        own = self._by_slice(state.codes[:, :-1])[rows, index]
        x = self.decoder.convolution(self.vectors(own)) + self.decoder.positions + state.decoder.context[rows]
        for block in self.decoder.blocks:
            x = block(x)
        state.decoder.hidden[rows] = x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prime", type=int, default=5, help="frames given")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--recomputed", type=int, default=1, help="frames; 0: none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for preset in options.presets:
        torch.manual_seed(0)
        prior = Prior.from_preset(preset).to(options.device, getattr(torch, DTYPES[options.precision])).eval()
        stream = prior.spec.levels[0]
        begun = torch.randint(stream.codes, (options.batch, options.prime, *stream.shape[1:]), device=options.device)
        ours, seconds = timed(prior, begun, FRAMES)
        drawn = FRAMES - options.prime
        millions = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
        line = f"{preset}: {millions:.2f} M, {seconds:.2f} s for {drawn} frames of {options.batch} videos, "
        print(line + f"{ours.codes_drawn / seconds:.0f} codes/s")  # noqa: T201
        if options.recomputed:
            prior.__class__ = Recomputing
            theirs, recomputing = timed(prior, begun, options.prime + options.recomputed)
            same = torch.equal(
                theirs.tokens[stream.name], ours.tokens[stream.name][:, : options.prime + options.recomputed]
            )
            times = recomputing / options.recomputed * drawn / seconds
            print(  # noqa: T201
                f"  recomputing: {recomputing:.1f} s for {options.recomputed} frames, so ours is {times:.1f} times as fast "
                f"(goal 10); {'the same codes' if same else 'OTHER CODES'}"
            )


DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def timed(prior: Prior, begun: Tensor, frames: int) -> tuple[Samples, float]:
    started = time.perf_counter()
    samples = sample_video(prior, {"video": begun}, frames, seed=0)
    samples.tokens["video"].cpu()  # waits for the device
    return samples, time.perf_counter() - started


if __name__ == "__main__":
    main()
