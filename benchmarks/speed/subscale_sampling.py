r"""Sampling one video from LVT's prior at the paper's size, against recomputing a slice for each of its positions.

    python -m tokenreel.benchmarks.speed.subscale_sampling [--given-frames 5] [--batch 1] [--recomputed 1] \
        [--precision fp32] [--device cpu]

16 frames of 16 x 16 positions with 4 codebooks of 512 codes, single-frame slices, each attention of table 7.
Recomputing is what the published code does (https://github.com/rakhimovv/lvt): the encoder once per slice, the decoder
over the whole slice for each of its positions, then the codebooks of that position one after the other. It runs in the
same sampler with the same random numbers for `--recomputed` frames, as every frame costs the same, and must give the
same tokens. Weights are random: the cost does not depend on them. One thread. Prints the seconds for all frames (the
paper, on a V100: 35, 32 and 30) and the ratio.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from tokenreel.priors.base import Prior
from tokenreel.priors.layers.sliced import SlicedState, SliceSpan
from tokenreel.priors.sampling.video import Samples, sample_video
from tokenreel.priors.subscale.transformer import SubscaleTransformer
from tokenreel.tokenizers.base import VideoTokenizer

PRESETS = ("lvt-bair-paper", "lvt-bair-paper-key", "lvt-bair-paper-relative")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GOAL = 10  # speed relative to recomputing, for one video on a CPU


class Recomputing(SubscaleTransformer):
    """Keeps the encoder's output of a slice, as the published code does, and nothing else."""

    def compute(self, state: SlicedState, spans: list[SliceSpan], first: list[int]) -> None:
        if not any(at % self.per_location == 0 for at in first):
            return  # computed already, for the position's first codebook
        rows, index = [span.row for span in spans], [span.slice for span in spans]
        own = self._by_location(state.clips.indices)[rows, index]
        x = (
            self.decoder.convolution(self.token_embedding(own))
            + self.decoder.position_embedding
            + state.cache.context[rows]
        )
        for block in self.decoder.blocks:
            x = block(x)
        state.cache.hidden[rows] = x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--given-frames", type=int, default=5, help="frames given to the prior")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--recomputed", type=int, default=1, help="frames that are recomputed (0: none)")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for preset in options.presets:
        torch.manual_seed(0)
        prior = Prior.from_preset(preset, VideoTokenizer.from_preset(preset).spec).eval()
        assert isinstance(prior, SubscaleTransformer)
        prior.to(options.device, DTYPES[options.precision])
        frames, level = prior.spec.frames, prior.spec.levels[0]
        given = torch.randint(
            level.codebook_size, (options.batch, options.given_frames, *level.shape[1:]), device=options.device
        )
        ours, seconds = timed(prior, given, frames)
        millions = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
        rate = f"{ours.tokens_sampled / seconds:.0f} tokens/s"
        print(f"{preset}, {millions:.2f} M: {seconds:.2f} s for {options.batch} videos, {rate}")  # noqa: T201
        if options.recomputed:
            compare(prior, given, options.recomputed, ours, seconds)


def compare(prior: SubscaleTransformer, given: Tensor, frames: int, ours: Samples, seconds: float) -> None:
    """Samples `frames` frames after `given` by recomputing; `ours` took `seconds` to the end of the clip."""
    recomputing = Recomputing(prior.config, prior.spec).eval().to(given.device, next(prior.parameters()).dtype)
    recomputing.load_state_dict(prior.state_dict())
    until = given.shape[1] + frames
    theirs, elapsed = timed(recomputing, given, until)
    name = prior.spec.levels[0].name
    same = torch.equal(theirs.tokens[name], ours.tokens[name][:, :until])
    speedup = elapsed / frames * (prior.spec.frames - given.shape[1]) / seconds
    verdict = "equal tokens" if same else "TOKENS DIFFER"
    print(f"  recomputing: {elapsed:.1f} s for {frames} frames, {speedup:.1f} times ours (goal {GOAL}); {verdict}")  # noqa: T201


def timed(prior: Prior, given: Tensor, frames: int) -> tuple[Samples, float]:
    started = time.perf_counter()
    samples = sample_video(prior, {prior.spec.levels[0].name: given}, frames, seed=0)
    for codes in samples.tokens.values():
        codes.cpu()  # waits for the device
    return samples, time.perf_counter() - started


if __name__ == "__main__":
    main()
