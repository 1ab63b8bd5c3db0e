"""The tokenizer contract rejects tokenizers and quantizers that break it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenreel.data.spec import Framing
from tokenreel.hub import fingerprint
from tokenreel.testing.tokenizers import (
    check_contract,
    check_quantizers,
    check_training_pass,
    check_training_steps,
    spread_codes,
)
from tokenreel.tokenizers.frame_vqvae import FrameVQVAE, FrameVQVAEConfig
from tokenreel.tokenizers.quantizers.lfq import LFQ, LFQConfig

SMALL: dict[str, Any] = {"quantizer": LFQConfig(bits=3), "hidden": 14, "residual": 7, "blocks": 1, "latent": 5}


class QuantizerListed(FrameVQVAE):
    decode_only_modules = ("decoder", "quantizer")


class WeightListed(FrameVQVAE):
    decode_only_modules = ("decoder", "encoder.layers.0.weight")


class NothingListed(FrameVQVAE):
    decode_only_modules = ()


class Misspelt(FrameVQVAE):
    decode_only_modules = ("decodr",)


class OwnFingerprint(FrameVQVAE):
    """A fingerprint that omits the quantizer."""

    @property
    def code_fingerprint(self) -> str:
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("encoder.")}
        return fingerprint(self.to_document(), tensors)


@dataclass(frozen=True)
class ScaledConfig(FrameVQVAEConfig):
    scale: float = 1.0  # of the pixels, before they are encoded


@dataclass(frozen=True)
class ScaleListedConfig(ScaledConfig):
    decode_only_settings = ("scale",)


class ScaleListed(FrameVQVAE):
    def _latents(self, video: Tensor) -> Tensor:
        return super()._latents(self.config.scale * video)


@dataclass(frozen=True)
class WidthListedConfig(FrameVQVAEConfig):
    decode_only_settings = ("hidden",)


class ListedInTheWrongPlace(FrameVQVAE):
    decode_only_settings = ("hidden",)


class Unsaved(FrameVQVAE):
    """Its shift is random and not in the state dict."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shift = torch.randn(5, 1, 1, 1)

    def _latents(self, video: Tensor) -> Tensor:
        return super()._latents(video) + self.shift


class LeakyDecoder(FrameVQVAE):
    """Pixels of a clip depend on the clip before it in the batch."""

    def _pixels(self, latents: Tensor) -> Tensor:
        pixels = super()._pixels(latents)
        return torch.cat([pixels[:1], (pixels[1:] + pixels[:-1]) / 2])


class LengthDependent(FrameVQVAE):
    """Tokens depend on how many frames the clip has."""

    def _latents(self, video: Tensor) -> Tensor:
        return super()._latents(video) + video.shape[2]


class Detached(LFQ):
    """Without a straight-through gradient."""

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        straight, indices, losses = super().train_rows(rows)
        return straight.detach(), indices, losses


class PartlyDetached(LFQ):
    """Only the first channel has a gradient."""

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return super().train_rows(torch.cat([rows[:, :1], rows[:, 1:].detach()], 1))


class OtherIndices(LFQ):
    """Training counts other indices than those of encode."""

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        straight, indices, losses = super().train_rows(rows)
        return straight, (indices + 1) % self.codebook_size, losses


class Blurred(FrameVQVAE):
    """A buffer of a subclass, which is fingerprinted without being listed."""

    kernel: Tensor

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("kernel", torch.tensor([0.25, 0.5, 0.25]).expand(3, 1, 1, 1, 3).clone())

    def _latents(self, video: Tensor) -> Tensor:
        return super()._latents(nn.functional.conv3d(video, self.kernel, padding=(0, 0, 1), groups=3))


class BlurListed(Blurred):
    decode_only_modules = ("decoder", "kernel")


class MovedInPlace(LFQ):
    """Moves what the gradient of its own loss needs."""

    def __init__(self, config: LFQConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.register_buffer("scale", torch.ones(dim))

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        latents, indices, losses = super().train_rows(rows)
        losses["scale"] = (rows * self.scale).square().mean()
        if self.training:
            self.scale.add_(1)
        return latents, indices, losses


def small(cls: type[FrameVQVAE], config: type[FrameVQVAEConfig] = FrameVQVAEConfig) -> FrameVQVAE:
    torch.manual_seed(5)
    tokenizer = cls(config(**SMALL), 2, Framing(height=20, width=28))
    spread_codes(tokenizer)
    return tokenizer


def random_video() -> Tensor:
    return torch.rand(2, 3, 2, 20, 28) * 2 - 1


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        (QuantizerListed, FrameVQVAEConfig, "decode_only_modules: quantizer.* is listed, but tokens .* depend on it"),
        (WeightListed, FrameVQVAEConfig, r"decode_only_modules: encoder\.layers\.0\.weight is listed, but tokens"),
        (BlurListed, FrameVQVAEConfig, "decode_only_modules: kernel is listed, but tokens"),
        (NothingListed, FrameVQVAEConfig, "decode_only_modules: no token depends on 'decoder'"),
        (Misspelt, FrameVQVAEConfig, "decode_only_modules: there is no submodule or tensor 'decodr'"),
        (OwnFingerprint, FrameVQVAEConfig, "code_fingerprint: does not change with quantizer.*, but tokens .* do"),
        (ScaleListed, ScaleListedConfig, "decode_only_settings: scale is listed, but tokens .* depend on it"),
        (ListedInTheWrongPlace, FrameVQVAEConfig, "decode_only_settings: .* of FrameVQVAEConfig, not of"),
        (FrameVQVAE, WidthListedConfig, "decode_only_settings: hidden is listed, but changes tensors used by encode"),
    ],
)
def test_a_wrong_list_is_rejected(cls: type[FrameVQVAE], config: type[FrameVQVAEConfig], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_contract(small(cls, config), random_video())


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Unsaved, "encode: tokens .* depend on something that is not in the state dict"),
        (LeakyDecoder, "decode: pixels depend on the other clips of the batch"),
        (LengthDependent, "encode: tokens of 'video' depend on the number of frames"),
    ],
)
def test_a_wrong_tokenizer_is_rejected(cls: type[FrameVQVAE], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_contract(small(cls), random_video())


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (Detached, check_training_pass, "forward: the decoded video has no gradient"),
        (Detached, check_quantizers, "train_rows: no straight-through gradient"),
        (PartlyDetached, check_quantizers, r"train_rows: no straight-through gradient to channels \[1, 2, 3, 4\]"),
        (MovedInPlace, check_training_steps, "forward: has no backward pass in training mode: .*inplace"),
        (OtherIndices, check_training_pass, "forward: code_counts of 'video' are not those of the tokens of encode"),
        (OtherIndices, check_quantizers, "train_rows: its indices are not those of encode_rows"),
    ],
)
def test_a_wrong_quantizer_is_rejected(cls: type[LFQ], check: Callable[..., None], message: str) -> None:
    tokenizer = small(FrameVQVAE)
    tokenizer.quantizer = cls(LFQConfig(bits=3), 5)
    with pytest.raises(AssertionError, match=message):
        check(tokenizer.freeze(), random_video())


@pytest.mark.parametrize(("cls", "config"), [(Blurred, FrameVQVAEConfig), (FrameVQVAE, ScaledConfig)])
def test_additions_of_subclasses_are_fingerprinted(cls: type[FrameVQVAE], config: type[FrameVQVAEConfig]) -> None:
    tokenizer = small(cls, config)
    check_contract(tokenizer, random_video())
    before = tokenizer.code_fingerprint
    if cls is Blurred:
        tokenizer.get_buffer("kernel").mul_(2)
    else:
        tokenizer.config = ScaledConfig(**SMALL, scale=3.0)
    assert tokenizer.code_fingerprint != before
