"""The last row of CCVS's table 5, an infinite codebook: the autoencoder without its quantizer, and a transformer that
regresses the next latent vector, and so gives one outcome for each start.

N clips, L = T h w positions, frame by frame in raster order, D channels of a latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.pipelines.training.optimizers import build_optimizer, learning_rate_factor, set_learning_rate
from tokenreel.pipelines.training.prior_objective import PriorTrainingConfig
from tokenreel.pipelines.training.tokenizer_objective import TokenizerObjective
from tokenreel.priors.layers.cached_transformer import CachedTransformer
from tokenreel.priors.layers.transformer import Transformer
from tokenreel.tokenizers.context_autoencoder import STREAM, ContextAutoencoder
from tokenreel.tokenizers.quantizers.base import Quantized


class NoQuantizer(nn.Module):
    """Passes latents on where other quantizers have indices."""

    codebook_size, codebooks = 2, 1  # placeholders for the token spec

    def encode(self, latents: Tensor) -> Tensor:
        """[N, D, t, h, w] -> float [N, t, h, w, D]"""
        return latents.float().movedim(1, -1)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.movedim(-1, 1)

    def forward(self, latents: Tensor) -> Quantized:
        counts = torch.zeros(self.codebooks, self.codebook_size, dtype=torch.long)
        return Quantized(latents.float(), counts, {}, counts)


@contextmanager
def without_quantizer(active: bool) -> Iterator[None]:
    """If `active`, tokenizers are built without a quantizer, and training does not validate their tokens."""
    if not active:
        yield
        return
    with (
        mock.patch("tokenreel.tokenizers.context_autoencoder.build_quantizer", return_value=NoQuantizer()),
        mock.patch.object(TokenizerObjective, "validate", return_value={}),
    ):
        yield


class LatentPrior(nn.Module):
    """Predicts the next latent from all earlier ones. Like the preset's GPT, it has the latent at the same position one
    frame before as an input; it predicts the change from that, so that the untrained model repeats the frame.
    """

    mean: Tensor  # [D]
    deviation: Tensor  # [D]

    def __init__(self, clips: Tensor, depth: int, width: int, heads: int) -> None:
        """For latents with the shape and the statistics of `clips` [N, T, h, w, D]."""
        super().__init__()
        _, frames, h, w, latent = clips.shape
        self.frame_positions, self.length = h * w, frames * h * w
        self.register_buffer("mean", clips.float().mean((0, 1, 2, 3)))
        self.register_buffer("deviation", clips.float().std((0, 1, 2, 3)).clamp(min=1e-6))
        self.newest, self.before = nn.Linear(latent, width), nn.Linear(latent, width)
        self.position = nn.Parameter(0.02 * torch.randn(self.length, width))
        self.transformer = Transformer(depth, width, heads, dropout=0.0)
        self.change = nn.Linear(width, latent)
        nn.init.zeros_(self.change.weight)

    def loss(self, clips: Tensor) -> Tensor:
        """Mean squared error of the normalised latents after the first frame of `clips` [N, T, h, w, D]."""
        latents = self.normalised(clips)
        change = self.change(self.transformer(self._inputs(latents)))
        return functional.mse_loss(
            (self._frame_before(latents) + change.float())[:, self.frame_positions :],
            latents[:, self.frame_positions :],
        )

    @torch.inference_mode()
    def predict(self, first: Tensor) -> Tensor:
        """Latents of a first frame [N, 1, h, w, D] -> those of all frames [N, T, h, w, D], predicted one by one."""
        latents = torch.zeros(len(first), self.length, first.shape[-1])
        latents[:, : self.frame_positions] = self.normalised(first)
        cache = CachedTransformer(self.transformer, len(first), self.length)
        cache.extend(self._inputs(latents)[:, : self.frame_positions], torch.arange(self.frame_positions)[None])
        for position in range(self.frame_positions, self.length):
            before = latents[:, position - self.frame_positions]
            x = self.newest(latents[:, position - 1]) + self.before(before) + self.position[position]
            x = cache.extend(x[:, None], torch.tensor([[position]]))[:, 0]
            latents[:, position] = before + self.change(x)
        return (latents * self.deviation + self.mean).view(len(first), -1, *first.shape[2:])

    def normalised(self, clips: Tensor) -> Tensor:
        """[N, T, h, w, D] -> [N, L, D]"""
        return ((clips.float() - self.mean) / self.deviation).flatten(1, 3)

    def _inputs(self, latents: Tensor) -> Tensor:
        """Inputs [N, L, width] of the transformer; the one at position i depends on latents before i."""
        newest = functional.pad(latents[:, :-1], (0, 0, 1, 0))
        return self.newest(newest) + self.before(self._frame_before(latents)) + self.position

    def _frame_before(self, latents: Tensor) -> Tensor:
        return functional.pad(latents[:, : -self.frame_positions], (0, 0, self.frame_positions, 0))


@torch.no_grad()
def training_latents(tokenizer: ContextAutoencoder, videos: int, frames: int) -> Tensor:
    """Latents, bfloat16 [2 x videos, T, h, w, D], of the first `videos` videos of Tabletop."""
    framing = tokenizer.spec.framing
    config = TabletopConfig(height=framing.height, width=framing.width, frames=2 * frames)
    latents = []
    for index in range(videos):
        clips = tabletop_clip(config, index).frames.reshape(2, frames, framing.height, framing.width, 3)
        latents.append(tokenizer.encode(to_model(clips))[STREAM].bfloat16())
    return torch.cat(latents)


def train(clips: Tensor, config: PriorTrainingConfig, shape: tuple[int, int, int]) -> LatentPrior:
    """Trains a prior of `shape` (depth, width, heads) on `clips` [N, T, h, w, D] with the steps and learning rates of
    `config`.
    """
    torch.manual_seed(config.seed)
    prior = LatentPrior(clips, *shape).train()
    optimizer = build_optimizer(config, [prior])
    for step in range(config.steps):
        set_learning_rate(optimizer, learning_rate_factor(config, step))
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            loss = prior.loss(clips[torch.randint(len(clips), (config.batch,))])
        loss.backward()
        if config.clip_norm:
            nn.utils.clip_grad_norm_(prior.parameters(), config.clip_norm)
        optimizer.step()
    return prior.eval()


@torch.inference_mode()
def predicted(prior: LatentPrior, tokenizer: ContextAutoencoder, true: np.ndarray) -> np.ndarray:
    """uint8 [N, T, H, W, 3]: the first frames of `true`, and their predicted continuations."""
    first = to_model(true[:, :1])
    latents = prior.predict(tokenizer.encode(first)[STREAM])
    rest = tokenizer.decode({STREAM: latents[:, 1:]}, tokenizer.new_context_buffer(given=first))
    return np.concatenate([true[:, :1], to_frames(rest)], 1)
