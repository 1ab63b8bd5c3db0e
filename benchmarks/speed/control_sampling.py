"""Cached sampling with controls, against recomputing the sequence for each token as CCVS's published code does.

    python -m tokenreel.benchmarks.speed.control_sampling [--preset small|paper] [--control state|sound|end]

One thread, one sample of a window of 16 frames of 8 x 8 tokens: with states 2 more per frame (1,056 in all), with sound
16 more (1,280), with an end frame 64 before all others (1,088); random weights. Recomputing runs the transformer over
the sequence so far for each new token, in the same precision and with torch's fused attention; it is timed at evenly
spaced tokens and extrapolated. Prints both times in seconds and their ratio, and fails unless those tokens are equal
and the ratio is at least 20. small: 6 blocks of width 384, half a minute; paper: 24 blocks, 16 heads, width 1024 (304
million parameters), a few minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.counter_rng import uniforms
from tokenreel.data.spec import END, END_STEP, Framing, StreamSpec, TokenSpec
from tokenreel.priors.gpt.model import GPT, GPTConfig
from tokenreel.priors.sampling.logits import invert_cdf
from tokenreel.priors.sampling.video import sample

FRAMES, SIDE, CODEBOOK_SIZE, GOAL = 16, 8, 1024, 20.0
SIZES = {"small": (6, 384, 6), "paper": (24, 1024, 16)}  # depth, width, heads
TIMED = {"small": 66, "paper": 6}  # tokens that are recomputed


@dataclass(frozen=True)
class Recomputed:
    """Tokens that were recomputed at some positions of the order."""

    positions: list[int]
    tokens: list[int]
    seconds: float  # for all tokens, extrapolated from the mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(SIZES), default="small")
    parser.add_argument("--control", choices=["state", "sound", "end"], default="state")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prior = controlled_gpt(options.preset, options.control)
    tokens = {
        name: torch.randint(prior.spec.stream(name).codebook_size, prior.spec.stream(name).shape)[None]
        for name in (END,)
        if name in prior.reads
    }
    started = time.thread_time()
    sampled = sample(prior, tokens, samples=torch.zeros(1, dtype=torch.long))
    cached = time.thread_time() - started
    flat = prior.flatten(sampled.tokens)
    slow = recompute(prior, tokens, flat, TIMED[options.preset])
    length, ratio = flat.shape[1], slow.seconds / cached
    same = slow.tokens == flat[0, slow.positions].tolist()
    print(f"{length} tokens: cached {cached:.1f} s, {length / cached:.0f} tokens/s")  # noqa: T201
    print(f"recomputed {len(slow.tokens)} tokens: {slow.seconds:.0f} s for all, equal tokens: {same}")  # noqa: T201
    print(f"{ratio:.0f} times as fast (goal {GOAL:.0f})")  # noqa: T201
    if not same or ratio < GOAL:
        sys.exit("the goal was missed, or tokens differ")


def controlled_gpt(preset: str, control: str) -> GPT:
    streams = {
        "state": StreamSpec("state", (FRAMES, 1, 2), 128, role="control", unconditional_token=128),
        "sound": StreamSpec("sound", (FRAMES, 8, 2), CODEBOOK_SIZE, role="control", unconditional_token=CODEBOOK_SIZE),
    }
    video = StreamSpec("video", (FRAMES, SIDE, SIDE), CODEBOOK_SIZE)
    spec = TokenSpec((video, *streams.values()), FRAMES, Framing(256, 256))
    depth, width, heads = SIZES[preset]
    return GPT(GPTConfig(depth=depth, width=width, heads=heads, controls=(control,)), spec).eval()


@torch.no_grad()
def recompute(prior: GPT, tokens: dict[str, Tensor], flat: Tensor, count: int) -> Recomputed:
    """Samples `count` tokens of the sequence `flat` [1, L] again, each from a pass over all tokens before it."""
    length = flat.shape[1]
    positions = torch.linspace(0, length - 1, count).long().tolist()
    tokens = {**tokens, END_STEP: torch.full((1, 1, 1, 1, 1), FRAMES - 1)}
    order, streams, recomputed = prior.order(), prior.spec.streams, list[int]()
    started = time.thread_time()
    for position in positions:
        stream, t, h, w, q = order[position].tolist()
        _, height, width, slices = streams[stream].shape
        token_id = stream * 2**48 + ((t * height + h) * width + w) * slices + q
        number = torch.from_numpy(
            uniforms(0, torch.zeros(1, dtype=torch.long).numpy(), torch.tensor([token_id]).numpy())
        )
        x = prior.transformer(prior._first_inputs(tokens, flat, position + 1, prior.position_embedding()))[:, -1:]
        log_probs = prior.output.log_probs(prior.output.linear(x), torch.tensor([[position]]))
        recomputed.append(int(invert_cdf(log_probs.exp(), number)))
    return Recomputed(positions, recomputed, (time.thread_time() - started) * length / count)


if __name__ == "__main__":
    main()
