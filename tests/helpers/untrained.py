"""Untrained tokenizers whose codes differ: PyTorch's initial weights make latents so small that they hardly do."""

from __future__ import annotations

from torch import nn

from tokenreel.tokenizers.base import VideoTokenizer


def spread_codes(tokenizer: VideoTokenizer) -> VideoTokenizer:
    """`tokenizer` itself, with larger weights in its encoder."""
    for layer in tokenizer.get_submodule("encoder").modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d):
            nn.init.orthogonal_(layer.weight, gain=2.0)
    return tokenizer
