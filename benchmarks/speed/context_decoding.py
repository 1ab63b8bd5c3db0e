r"""The decoding speed of a context autoencoder, against the same weights frame by frame, and where its time is spent.

    python -m tokenreel.benchmarks.speed.context_decoding [--preset ccvs-tabletop-tiny] [--frames 16] \
        [--batch 1] [--device cpu]

Weights are untrained, as time does not depend on them. The fastest of several rounds is reported. Frame by frame, the
decoder gets all frames at once; with context each frame waits for the previous one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import click
import torch

from tokenreel.decoders.context import decoder as context_decoder
from tokenreel.decoders.context import flow as context_flow
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import STREAM, ContextAutoencoder

CONTEXTS = (0, 1, 4, 15)
PARTS = {  # part -> the module and function that compute it
    "correlation": (context_flow, "local_correlation"),
    "warping in the flow": (context_flow, "warp"),
    "fusion": (context_decoder, "fuse"),
}


@click.command()
@click.option("--preset", default="ccvs-tabletop-tiny")
@click.option("--frames", default=16)
@click.option("--batch", default=1)
@click.option("--device", default="cpu")
@click.option("--rounds", default=3)
@click.option("--bf16", is_flag=True)
def main(preset: str, frames: int, batch: int, device: str, rounds: int, bf16: bool) -> None:
    torch.manual_seed(0)
    tokenizer = VideoTokenizer.from_preset(preset).freeze().to(device)
    assert isinstance(tokenizer, ContextAutoencoder)
    level = tokenizer.spec.stream(STREAM)
    codes = torch.randint(level.codebook_size, (batch, frames, *level.shape[1:]), device=device)

    def decode(context: int) -> Callable[[], None]:
        return lambda: _synchronize(tokenizer.decode({STREAM: codes}, tokenizer.new_context_buffer(context)))

    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16), cpu_threads(1):
        seconds = {context: fastest(decode(context), rounds) for context in CONTEXTS}
        for context, elapsed in seconds.items():
            rate = batch * frames / elapsed
            click.echo(f"context {context:2}: {rate:8.1f} frames/s, {elapsed / seconds[0]:5.1f} times the time of 0")
        if device == "cpu":
            click.echo(f"context 4, parts: {', '.join(parts(tokenizer, decode(4)))}")


def fastest(call: Callable[[], None], rounds: int) -> float:
    """Seconds of the fastest call, except the first one, which chooses kernels."""
    call()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def parts(tokenizer: ContextAutoencoder, call: Callable[[], None]) -> Iterator[str]:
    """The fraction of a call that each part takes."""
    spent = dict.fromkeys([*PARTS, "encoding again", "flow module in total", "decoder in total"], 0.0)
    with measured(tokenizer, spent):
        started = time.perf_counter()
        call()
        total = time.perf_counter() - started
    for name, seconds in spent.items():
        yield f"{name} {seconds / total:.0%}"


@contextmanager
def measured(tokenizer: ContextAutoencoder, spent: dict[str, float]) -> Iterator[None]:
    """Adds the seconds of each part to `spent` while the context is active."""
    decoder = tokenizer.decoder
    assert decoder.flow is not None
    patches = [mock.patch.object(module, name, _timed(getattr(module, name), part, spent))
               for part, (module, name) in PARTS.items()]  # fmt: skip
    patches.append(mock.patch.object(tokenizer, "features", _timed(tokenizer.features, "encoding again", spent)))
    patches.append(mock.patch.object(decoder, "forward", _timed(decoder.forward, "decoder in total", spent)))
    patches += [
        mock.patch.object(level, "forward", _timed(level.forward, "flow module in total", spent))
        for level in decoder.flow
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def _timed(function: Callable[..., object], part: str, spent: dict[str, float]) -> Callable[..., object]:
    def call(*args: object, **kwargs: object) -> object:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        spent[part] += time.perf_counter() - started
        return result

    return call


def _synchronize(video: torch.Tensor) -> None:
    if video.device.type == "cuda":
        torch.cuda.synchronize(video.device)


if __name__ == "__main__":
    main()
