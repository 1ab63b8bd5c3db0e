"""A minimal project: videos, an untrained tokenizer and prior, and a cache, in the folders that the texts use."""

from __future__ import annotations

from pathlib import Path

import torch

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.spec import Framing
from tokenreel.pipelines.cli.program import run_command
from tokenreel.priors.base import build_prior
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import build_tokenizer

VIDEOS, FRAMES, SIZE = 11, 8, 16  # videos, frames of each video, pixels
DATA = f"tabletop:?videos={VIDEOS}&frames={FRAMES}&size={SIZE}"
TOKENIZER = {
    "type": "frame-vqvae",
    "hidden": 8,
    "residual": 4,
    "blocks": 1,
    "downsamplings": 2,
    "latent": 4,
    "quantizer": {"type": "fsq", "levels": [5, 5]},
}
PRIOR = {"type": "gpt", "depth": 1, "width": 16, "heads": 2}


def make_project(folder: Path) -> Path:
    """Writes `runs/tokenizer`, `runs/prior`, `tokens.zarr` and `videos/` (with class folders) below `folder`."""
    torch.manual_seed(0)
    command("tabletop", str(folder / "videos"), f"--videos={VIDEOS}", f"--frames={FRAMES}", f"--size={SIZE}")
    spread_codes(build_tokenizer(TOKENIZER, FRAMES, Framing(SIZE, SIZE))).save_pretrained(folder / "runs/tokenizer")
    cache = folder / "tokens.zarr"
    command("tokenize-dataset", "--tokenizer", str(folder / "runs/tokenizer"), "--data", DATA, "--out", str(cache))
    tokens = TokenCache.open(cache)
    prior = build_prior(PRIOR, tokens.spec)
    prior.code_fingerprint = tokens.code_fingerprint
    prior.save_pretrained(folder / "runs/prior")
    return folder


def command(*arguments: str) -> None:
    """Runs a command line of tokenreel, which must succeed."""
    code = run_command(list(arguments))
    assert code == 0, f"tokenreel {' '.join(arguments)}: exit code {code}"
