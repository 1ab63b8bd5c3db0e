"""The PixelCNN priors of two levels: cached sampling against recomputing the volume for each token, and training.

    python -m tokenreel.benchmarks.speed.pixelcnn_speed [--sizes 4 8 16] [--preset video-vqvae-tabletop-tiny]

Sampling: one clip from the preset's priors on one thread, for top grids of 4 x S x S (the bottom's is 8 x 2S x 2S; the
tiny preset's S is 8). Both ways use the same sampler and random numbers, and must give the same tokens. Recomputing is
timed on the last `--recomputed` tokens of a clip whose others are given. Training: seconds per step of the top prior,
and of an attention-only transformer with about as many parameters over the same tokens. Weights are random: the cost
does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from tokenreel.config import load_preset
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.priors.base import Prior, build_prior, levels_of, part_of_level
from tokenreel.priors.gpt.model import GPT, GPTConfig
from tokenreel.priors.layers.sliced import SlicedState, SliceSpan
from tokenreel.priors.pixelcnn.prior import PixelCNN
from tokenreel.priors.sampling.video import sample

BATCH, STEPS = 8, 5  # in training
GOAL = 10  # speed relative to recomputing, at the tiny preset's size


def recompute(prior: PixelCNN) -> None:
    """Makes the prior compute the whole volume where it would compute a few positions of it."""

    def compute(state: SlicedState, spans: list[SliceSpan], first: list[int]) -> None:
        rows, index = [span.row for span in spans], [span.slice for span in spans]
        vectors = prior.token_embedding(state.clips.indices[rows, index]).unflatten(1, prior.shape)
        condition = state.cache.condition[rows].unflatten(1, prior.shape)
        state.cache.hidden[rows] = prior.stack(vectors, condition).flatten(1, 3)

    prior.compute = compute  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="video-vqvae-tabletop-tiny")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--recomputed", type=int, default=16, help="tokens that are recomputed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    section = load_preset(options.preset)["prior"]
    for size in options.sizes:
        times = [compare(part_of_level(section, level), size, options.recomputed) for level in levels_of(section)]
        ours, theirs = (sum(column) for column in zip(*times, strict=True))
        goal = f" (goal {GOAL})" if size == 8 else ""
        print(f"{size}: both levels {ours:.2f} s, recomputing {theirs:.1f} s: {theirs / ours:.1f} times{goal}")  # noqa: T201
    train(part_of_level(section, "top"))


def compare(section: Any, size: int, recomputed: int) -> tuple[float, float]:
    """Seconds for the tokens of one clip: ours, and by recomputing."""
    prior, tokens = prior_and_tokens(section, size, rows=1)
    length = len(prior.order())
    none_given, all_but_last = torch.zeros(length, dtype=torch.bool), torch.arange(length) < length - recomputed
    ours, seconds = timed(prior, tokens, none_given)
    recompute(prior)
    theirs, recomputing_seconds = timed(prior, {**tokens, **ours}, all_but_last)
    assert all(torch.equal(codes, ours[name]) for name, codes in theirs.items()), "tokens differ"
    total = recomputing_seconds / recomputed * length
    print(f"{size}, {prior.predicts[0]}: {seconds:.2f} s for {length} tokens, recomputing {total:.1f} s")  # noqa: T201
    return seconds, total


def timed(prior: Prior, tokens: dict[str, Tensor], given: Tensor) -> tuple[dict[str, Tensor], float]:
    started = time.thread_time()
    sampled = sample(prior, tokens, given, samples=torch.arange(1)).tokens
    return sampled, time.thread_time() - started


def prior_and_tokens(section: Any, size: int, rows: int) -> tuple[PixelCNN, dict[str, Tensor]]:
    torch.manual_seed(0)
    spec = spec_of_size(size)
    prior = build_prior(section, spec)
    assert isinstance(prior, PixelCNN)
    return prior, {stream.name: torch.randint(stream.codebook_size, (rows, *stream.shape)) for stream in spec.streams}


def spec_of_size(size: int) -> TokenSpec:
    """Spec of clips of 16 frames, 4 of which are also encoded alone."""
    levels = [("top", 4, size, 4), ("bottom", 8, 2 * size, 2)]
    streams = [StreamSpec(name, (t, s, s), 64, stride=stride) for name, t, s, stride in levels]
    streams += [
        StreamSpec(f"{name}_given", (t // 4, s, s), 64, stride=stride, role="control") for name, t, s, stride in levels
    ]
    return TokenSpec(tuple(streams), 16, Framing(8 * size, 8 * size), time="window")


def train(section: Any, size: int = 8) -> None:
    """Times training steps of the top prior and of a decoder-only transformer that predicts as many tokens."""
    prior, tokens = prior_and_tokens(section, size, BATCH)
    top = StreamSpec("top", (3, size, size), 64)
    gpt = GPT(GPTConfig(depth=8, width=128, heads=4), TokenSpec((top,), 3, Framing(8 * size, 8 * size)))
    for name, model, clips in (("PixelCNN", prior, tokens), ("attention only", gpt, {"top": tokens["top"][:, 1:]})):
        given = torch.zeros(BATCH, len(model.order()), dtype=torch.bool)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        started = 0.0
        for step in range(STEPS + 1):
            started = time.thread_time() if step == 1 else started  # the first step is not counted
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.loss(clips, given)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        seconds = (time.thread_time() - started) / STEPS
        print(f"training, {name}, {millions:.2f} M: {seconds:.3f} s per step of {BATCH} clips")  # noqa: T201


if __name__ == "__main__":
    main()
