"""Cached sampling with controls against recomputing everything for each code, as CCVS's published code does.

    python -m tokenreel.benchmarks.speed.control_sampling [--preset small|paper] [--control state|sound|end]

One thread, one sample, every code of a window of 16 frames of 8x8 codes drawn: with states 2 more a frame (1,056 in
all), with sound 16 more (1,280), with an end frame 64 before all (1,088); small and random weights. Recomputing runs
the transformer over the sequence so far for each new code, in the same precision and with torch's fused attention; its
time is taken at some of the codes, spread evenly, and counted for all. Prints seconds for both and their ratio, and
fails unless those codes are the same and the ratio is at least 20. small: 6 blocks of width 384, half a minute;
paper: 24 blocks, 16 heads, width 1024 (304 million parameters), some minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.data.spec import END, END_STEP, Framing, StreamSpec, TokenSpec
from tokenreel.priors.gpt.model import GPT, GPTConfig
from tokenreel.priors.sampling.counter_rng import uniforms
from tokenreel.priors.sampling.logits import invert_cdf
from tokenreel.priors.sampling.video import sample

FRAMES, SIDE, CODES, GOAL = 16, 8, 1024, 20.0
SIZES = {"small": (6, 384, 6), "paper": (24, 1024, 16)}  # depth, width, heads
TIMED = {"small": 66, "paper": 6}  # codes that are recomputed


@dataclass(frozen=True)
class Recomputed:
    """What recomputing gave at some positions of the order."""

    positions: list[int]
    codes: list[int]
    seconds: float  # of all codes, from the mean


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
    drawn = sample(prior, tokens, samples=torch.zeros(1, dtype=torch.long))
    cached = time.thread_time() - started
    flat = prior.flatten(drawn.tokens)
    slow = recompute(prior, tokens, flat, TIMED[options.preset])
    length, ratio = flat.shape[1], slow.seconds / cached
    same = slow.codes == flat[0, slow.positions].tolist()
    print(f"{length} codes: cached {cached:.1f} s, {length / cached:.0f} codes/s")  # noqa: T201
    print(f"recomputed at {len(slow.codes)} codes: {slow.seconds:.0f} s for all, the same codes: {same}")  # noqa: T201
    print(f"{ratio:.0f} times as fast (goal {GOAL:.0f})")  # noqa: T201
    if not same or ratio < GOAL:
        sys.exit("missed")


def controlled_gpt(preset: str, control: str) -> GPT:
    streams = {
        "state": StreamSpec("state", (FRAMES, 1, 2), 128, role="control", unconditional_token=128),
        "sound": StreamSpec("sound", (FRAMES, 8, 2), CODES, role="control", unconditional_token=CODES),
    }
    video = StreamSpec("video", (FRAMES, SIDE, SIDE), CODES)
    spec = TokenSpec((video, *streams.values()), FRAMES, Framing(256, 256))
    depth, width, heads = SIZES[preset]
    return GPT(GPTConfig(depth=depth, width=width, heads=heads, controls=(control,)), spec).eval()


@torch.no_grad()
def recompute(prior: GPT, tokens: dict[str, Tensor], flat: Tensor, count: int) -> Recomputed:
    """Draws `count` codes of the sequence `flat` [1, L] once more, each from a pass over all that is before it."""
    length = flat.shape[1]
    positions = torch.linspace(0, length - 1, count).long().tolist()
    tokens = {**tokens, END_STEP: torch.full((1, 1, 1, 1, 1), FRAMES - 1)}
    order, streams, codes = prior.order(), prior.spec.streams, []
    started = time.thread_time()
    for position in positions:
        stream, t, h, w, q = order[position].tolist()
        _, height, width, slices = streams[stream].shape
        code_id = stream * 2**48 + ((t * height + h) * width + w) * slices + q
        number = torch.from_numpy(
            uniforms(0, torch.zeros(1, dtype=torch.long).numpy(), torch.tensor([code_id]).numpy())
        )
        x = prior.transformer(prior._first_inputs(tokens, flat, position + 1, prior.position_embedding()))[:, -1:]
        log_probs = prior.output.log_probs(prior.output.linear(x), torch.tensor([[position]]))
        codes.append(int(invert_cdf(log_probs.exp(), number)))
    return Recomputed(positions, codes, (time.thread_time() - started) * length / count)


if __name__ == "__main__":
    main()
