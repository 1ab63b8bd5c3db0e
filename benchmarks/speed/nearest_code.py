"""Nearest-code look-up, against vector-quantize-pytorch's VectorQuantize in evaluation mode, interleaved.

    python -m tokenreel.benchmarks.speed.nearest_code [--rounds 7]

16,384 vectors of 256 channels, one thread. Prints a line for each codebook size: median milliseconds of both and their
ratio, the number of differing indices, and the peak memory of our look-up. Requires vector-quantize-pytorch
(pip install vector-quantize-pytorch).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tokenreel.tokenizers.quantizers.nearest import CHUNK, nearest_indices

ROWS, DIM = 16_384, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for codebook_size, goal in ((512, 2.5), (8192, 5.0)):
        vectors, codebook = torch.randn(ROWS, DIM), torch.randn(codebook_size, DIM)
        ours, peer = (lambda v=vectors, c=codebook: nearest_indices(v, c)), peer_lookup(vectors, codebook)
        differing = int((ours() != peer()).sum())
        ours_ms, peer_ms = interleaved([ours, peer], rounds)
        print(  # noqa: T201
            f"K={codebook_size}: tokenreel {ours_ms:.1f} ms, vector-quantize-pytorch {peer_ms:.1f} ms: "
            f"{peer_ms / ours_ms:.2f} times (goal {goal}), {differing} indices differ, "
            f"scores {CHUNK * codebook_size * 4 / 2**20:.0f} MiB at a time"
        )


def peer_lookup(vectors: Tensor, codebook: Tensor) -> Callable[[], Tensor]:
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError as error:
        sys.exit(f"vector-quantize-pytorch cannot be imported ({error}): pip install vector-quantize-pytorch")
    quantizer = VectorQuantize(dim=DIM, codebook_size=len(codebook)).eval()
    quantizer._codebook.embed.copy_(codebook[None])
    quantizer._codebook.initted.fill_(True)

    @torch.inference_mode()
    def look_up() -> Tensor:
        return quantizer(vectors[None])[1][0]

    return look_up


def interleaved(calls: list[Callable[[], Tensor]], rounds: int) -> list[float]:
    """Median milliseconds of each call; a round runs each call once, so that other load affects all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
    return [1e3 * statistics.median(seconds) for seconds in times]


if __name__ == "__main__":
    main()
