"""What the GPT benchmarks share: our GPT and x-transformers' of equal size, and interleaved timing.

12.3 and 12.6 million parameters: 6 blocks, width 384, 6 heads, 2048 codes, 1024 positions (16 x 8 x 8), one thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.priors.gpt.model import GPT, GPTConfig

CODEBOOK_SIZE, DEPTH, WIDTH, HEADS = 2048, 6, 384, 6
LENGTH = 1024
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def our_gpt(length: int = LENGTH) -> GPT:
    steps = length // 64
    spec = TokenSpec((StreamSpec("video", (steps, 8, 8), CODEBOOK_SIZE),), steps, Framing(64, 64))
    return GPT(GPTConfig(depth=DEPTH, width=WIDTH, heads=HEADS), spec)


def peer_gpt(flash: bool, length: int = LENGTH) -> Any:
    """x-transformers' decoder in its own training and sampling wrapper; `flash`: its attn_flash."""
    try:
        from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper
    except ImportError as error:
        sys.exit(f"x-transformers cannot be imported ({error}): pip install x-transformers")
    layers = Decoder(dim=WIDTH, depth=DEPTH, heads=HEADS, attn_dim_head=WIDTH // HEADS, attn_flash=flash)
    # one position more than tokens: its wrapper takes the start token as input
    transformer = TransformerWrapper(num_tokens=CODEBOOK_SIZE, max_seq_len=length + 1, attn_layers=layers)
    return AutoregressiveWrapper(transformer)


def millions(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, by name; a round runs each call once, so that other load affects all alike.

    Processor time of this thread, which other work on the machine affects less.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.thread_time()
            call()
            times[name].append(time.thread_time() - started)
    return times


def ratio(peer: list[float], ours: list[float]) -> float:
    """How many times as fast ours is: the median over the rounds."""
    return statistics.median(p / o for p, o in zip(peer, ours, strict=True))
