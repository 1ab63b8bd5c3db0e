"""Small artifacts of every kind, made by code: a tokenizer, controls, a prior, caches, a run with checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from tokenreel.benchmarks.jobs.runner import tokenreel
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.spec import Framing
from tokenreel.priors.base import build_prior
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import build_tokenizer

FRAMES, SIZE = 8, 16
TOKENIZER = {
    "type": "frame-vqvae", "hidden": 8, "residual": 4, "blocks": 1, "downsamplings": 2, "latent": 4,
    "quantizer": {"type": "fsq", "levels": [5, 5]},
}  # fmt: skip
TRAINING = (
    *("--set", "prior={type: gpt, depth: 1, width: 16, heads: 2, dropout: 0.1}", "--device", "cpu", "--steps", "5"),
    *("--set", "training={batch: 2, checkpoint_every: 2, validate_every: 2, sample_every: 4, log_every: 1}"),
)


class Project:
    """Paths of the artifacts below `root`, all of which exist after `make`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = f"tabletop:?videos=11&frames={FRAMES}&size={SIZE}"
        self.tokenizer, self.prior, self.controls = root / "tokenizer", root / "prior", root / "controls"
        self.cache, self.samples, self.run = root / "tokens.zarr", root / "samples.zarr", root / "run"

    def make(self) -> Project:
        torch.manual_seed(0)
        spread_codes(build_tokenizer(TOKENIZER, FRAMES, Framing(SIZE, SIZE))).save_pretrained(self.tokenizer)
        tokenreel(self.tokenize(self.cache))
        cache = TokenCache.open(self.cache)
        prior = build_prior({"type": "gpt", "depth": 1, "width": 16, "heads": 2}, cache.spec)
        prior.code_fingerprint = cache.code_fingerprint
        prior.save_pretrained(self.prior)
        tokenreel(self.fit(self.controls))
        tokenreel(self.sample(self.samples))
        tokenreel(self.train(self.run))
        return self

    def tokenize(self, out: Path, *options: str) -> list[str]:
        tokenizer = ["--tokenizer", str(self.tokenizer), "--data", self.data, "--out", str(out)]
        return ["tokenize-dataset", *tokenizer, "--device", "cpu", *options]

    def fit(self, out: Path) -> list[str]:
        clips = f"data={{frames: {FRAMES}, framing: {{height: {SIZE}, width: {SIZE}}}}}"
        controls = "controls={class: {type: class}}"
        return ["fit-controls", "--data", self.data, "--set", clips, "--set", controls, "--out", str(out)]

    def train(self, out: Path) -> list[str]:
        return ["train-prior", "--cache", str(self.cache), "--out", str(out), *TRAINING]

    def train_tokenizer(self, out: Path) -> list[str]:
        size = ("--set", f"data.frames={FRAMES}", "--set", f"data.framing={{height: {SIZE}, width: {SIZE}}}")
        model = ("--set", "tokenizer={hidden: 8, residual: 4, blocks: 1, latent: 4}", "--workers", "0")
        steps = ("--set", "training={batch: 2, checkpoint_every: 2, validate_every: 2, sample_every: 4, log_every: 1}")
        options = ("--steps", "5", "--device", "cpu", *size, *model, *steps)
        return ["train-tokenizer", "--preset", "gpt-tabletop-tiny", "--data", self.data, "--out", str(out), *options]

    def sample(self, out: Path) -> list[str]:
        source = ["--prior", str(self.prior), "--cache", str(self.cache), "--num", "3", "--device", "cpu"]
        return ["sample", *source, "--out", str(out)]

    def decode(self, out: Path) -> list[str]:
        tokens = ["--tokens", str(self.samples), "--tokenizer", str(self.tokenizer), "--device", "cpu"]
        return ["decode", *tokens, "--out", str(out)]

    def export(self, out: Path) -> list[str]:
        return ["export", "--cache", str(self.cache), "--out", str(out), "--shard-rows", "4"]

    def tabletop(self, out: Path) -> list[str]:
        return ["tabletop", str(out), "--videos", "3", f"--frames={FRAMES}", f"--size={SIZE}"]
