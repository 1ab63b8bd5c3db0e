"""Untrained tokenizers that use many codes: with PyTorch's initial weights latents are so small that they use few."""

from __future__ import annotations

from torch import nn

from tokenreel.tokenizers.base import VideoTokenizer


def spread_codes(tokenizer: VideoTokenizer) -> VideoTokenizer:
    """Returns `tokenizer` itself, with larger weights in its encoder."""
    for layer in tokenizer.get_submodule("encoder").modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d):
            nn.init.orthogonal_(layer.weight, gain=2.0)
    return tokenizer
