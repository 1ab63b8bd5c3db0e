"""Point-to-point samples of a token system for the pairs of frames of the inbetweening tables, for their --samples.

    python -m tokenreel.benchmarks.papers.inbetweening.token_samples FOLDER --tokenizer runs/ccvs-tokenizer \
        --prior runs/ccvs-end-prior [--clips 256] [--samples 8]

TOKENIZER is a trained ccvs-tabletop-tiny, PRIOR a prior of ccvs-tabletop-tiny-end on its tokens. Clips are the tables'
held-out ones at the tokenizer's size, which the tables average down; both frames are given to prior and decoder, and
stand in the samples as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from tokenreel.benchmarks.papers.ccvs import measures
from tokenreel.benchmarks.papers.inbetweening.runs import SAMPLES, TRUE
from tokenreel.data.pixels import to_model
from tokenreel.data.spec import END
from tokenreel.pipelines.decoding.tokens_to_video import decode_tokens
from tokenreel.pipelines.generation.cascade import generate_tokens
from tokenreel.pipelines.generation.config import GenerationConfig
from tokenreel.pipelines.generation.given_tokens import given_tokens
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import STREAM

BATCH = 24  # clips encoded, sampled or decoded at a time


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tokenizer", "tokenizer_path", required=True, help="Folder of the tokenizer.")
@click.option("--prior", "prior_path", required=True, help="Folder of the prior.")
@click.option("--clips", default=256, help="Number of held-out pairs, as in the tables.")
@click.option("--samples", default=8, help="Number of samples for each pair.")
@click.option("--seed", default=0, help="Seed of the samples.")
def main(folder: Path, tokenizer_path: str, prior_path: str, clips: int, samples: int, seed: int) -> None:
    tokenizer, prior = VideoTokenizer.from_pretrained(tokenizer_path).freeze(), Prior.from_pretrained(prior_path).eval()
    spec = tokenizer.spec
    true = measures.held_out(clips, spec.frames, spec.framing.height).frames
    made = point_to_point(tokenizer, prior, true, samples, seed)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / TRUE, true)
    np.save(folder / SAMPLES, made)


def point_to_point(tokenizer: VideoTokenizer, prior: Prior, true: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """uint8 [N, S, T, H, W, 3]: samples for the first and the last frame of each clip of `true` [N, T, H, W, 3]."""
    codes = np.concatenate([tokenizer.encode(to_model(true[rows]))[STREAM].numpy() for rows in _batches(len(true))])
    tokens = {STREAM: np.repeat(codes, samples, 0)}
    config = GenerationConfig(len(codes) * samples, given_frames=1, seed=seed, batch=BATCH)
    sampled = generate_tokens([prior], given_tokens([prior], tokens, 1, [END]), config).tokens[STREAM].numpy()
    made = np.empty((len(sampled), *true.shape[1:]), np.uint8)
    for rows in _batches(len(made)):
        clips = true[rows // samples]
        made[rows] = decode_tokens(tokenizer, {STREAM: sampled[rows]}, given=clips[:, :1], end=clips[:, -1])
        made[rows, -1] = clips[:, -1]
    return made.reshape(len(true), samples, *true.shape[1:])


def _batches(count: int) -> Iterator[np.ndarray]:
    for first in range(0, count, BATCH):
        yield np.arange(first, min(first + BATCH, count))


if __name__ == "__main__":
    main()
