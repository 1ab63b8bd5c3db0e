"""The contribution of each level of the hierarchical tokenizer: the tiny preset, and a one-level one of equal bits.

    python -m tokenreel.benchmarks.papers.video_vqvae.levels --steps 2000

Both are trained here on one core, on Tabletop, and measured on held-out clips. The one-level tokenizer is the same
3D network without the top level in its decoder, with a larger codebook. Also printed: PSNR with the tokens of either
level shuffled, of the top alone, and with the given frames' own tokens in front, as a predicted clip is decoded.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from unittest import mock

import click
import numpy as np
import torch
from torch import Tensor

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_frames, to_model
from tokenreel.metrics.codes import CodeCounter
from tokenreel.metrics.reconstruction import ReconstructionScores
from tokenreel.pipelines.commands import train_tokenizer
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.decoding.reconstruction import data_config_of, read_clips
from tokenreel.pipelines.requests.training import TrainTokenizerRequest
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.hierarchical_vqvae import GIVEN_STREAMS, LEVELS, HierarchicalDecoder, HierarchicalVQVAE

PRESET = "video-vqvae-tabletop-tiny"
DATA = "tabletop:?videos=240&frames=16"
RARELY = ("training={validation_clips: 4, validate_every: 1000000, sample_every: 1000000, checkpoint_every: 1000000}",)
CLIPS = 24  # held out


class OneLevelDecoder(HierarchicalDecoder):
    """A decoder to which the top level is always zero."""

    def forward(self, top: Tensor, bottom: Tensor | None) -> Tensor:
        return super().forward(torch.zeros_like(top), bottom)


@click.command()
@click.option("--steps", default=2000)
@click.option("--seed", default=0)
def main(steps: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        two = train(Path(folder) / "two", steps, seed, ())
        video = held_out(two)
        click.echo(f"two levels, {two.spec.bits:.0f} bits per clip, {two.spec.compression:.2%} saved")
        report_levels(two, video)
        codebook_size = one_level_codebook_size(two)
        settings = (
            "tokenizer={condition_bottom: false, mask_bottom: 0.0}",
            f"tokenizer.quantizer.codebook_size={codebook_size}",
        )
        with mock.patch("tokenreel.tokenizers.hierarchical_vqvae.HierarchicalDecoder", OneLevelDecoder):
            one = train(Path(folder) / "one", steps, seed, settings)
        tokens = one.encode(video)
        quality = f"{psnr(one.decode(tokens), video):.2f} dB, {usage(one, tokens, 'bottom')}"
        click.echo(f"one level of {codebook_size} codes: {quality}")


def train(out: Path, steps: int, seed: int, settings: tuple[str, ...]) -> HierarchicalVQVAE:
    train_tokenizer.run(
        TrainTokenizerRequest(
            preset=PRESET, assignments=(*RARELY, *settings), data=DATA, out=out, steps=steps, workers=0, seed=seed
        )
    )
    tokenizer = VideoTokenizer.from_pretrained(out).freeze()
    assert isinstance(tokenizer, HierarchicalVQVAE)
    return tokenizer


def one_level_codebook_size(tokenizer: HierarchicalVQVAE) -> int:
    """The size that gives the bottom grid alone as many bits as both levels have, rounded up."""
    return math.ceil(2 ** (tokenizer.spec.bits / tokenizer.spec.stream("bottom").positions))


def held_out(tokenizer: VideoTokenizer) -> Tensor:
    with DecodePool(DATA, workers=0) as pool:
        plan = plan_of(pool, data_config_of(tokenizer))
        return to_model(np.stack([clip for _, clip in read_clips(plan, pool, plan.rows("validation")[:CLIPS])]))


@torch.inference_mode()
def report_levels(tokenizer: HierarchicalVQVAE, video: Tensor) -> None:
    tokens = tokenizer.encode(video)
    with_given = {
        level: torch.cat([tokens[given], tokens[level][:, tokens[given].shape[1] :]], 1)
        for level, given in GIVEN_STREAMS.items()
    }
    click.echo(f"unchanged tokens: {psnr(tokenizer.decode(tokens), video):.2f} dB")
    click.echo(f"given frames' own tokens in front: {psnr(tokenizer.decode(with_given), video):.2f} dB")
    click.echo(f"top alone: {psnr(tokenizer.decode_top(tokens['top']), video):.2f} dB")
    for level in LEVELS:
        codes = tokens[level].flatten()
        order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
        shuffled = tokenizer.decode({**tokens, level: codes[order].view_as(tokens[level])})
        click.echo(f"{level} shuffled: {psnr(shuffled, video):.2f} dB; {usage(tokenizer, tokens, level)}")


def usage(tokenizer: VideoTokenizer, tokens: dict[str, Tensor], level: str) -> str:
    stream = tokenizer.spec.stream(level)
    counter = CodeCounter(stream.codebook_size, stream.codebooks)
    counter.update(tokens[level].numpy())
    (codebook,) = counter.usage()
    return f"{codebook.used:.0%} of {codebook.codebook_size} codes in use, perplexity {codebook.perplexity:.1f}"


def psnr(decoded: Tensor, video: Tensor) -> float:
    frames, original = to_frames(decoded), to_frames(video)
    scores = ReconstructionScores(np.zeros(original.shape[2:]))
    scores.update(original, frames)
    return scores.compute()["psnr"]


if __name__ == "__main__":
    main()
