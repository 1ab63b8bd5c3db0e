"""The tokenizer contract rejects tokenizers whose code fingerprint omits what their tokens depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tokenizer_contract import check_contract
from torch import Tensor, nn
from untrained import spread_codes

from tokenreel.data.spec import Framing
from tokenreel.hub import fingerprint
from tokenreel.tokenizers.frame_vqvae import FrameVQVAE, FrameVQVAEConfig
from tokenreel.tokenizers.quantizers.lfq import LFQConfig

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


class ScaleListed(FrameVQVAE):
    decode_only_settings = ("scale",)

    def _latents(self, video: Tensor) -> Tensor:
        return super()._latents(self.config.scale * video)


class WidthListed(FrameVQVAE):
    decode_only_settings = ("hidden",)


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
        (ScaleListed, ScaledConfig, "decode_only_settings: scale is listed, but tokens .* depend on it"),
        (WidthListed, FrameVQVAEConfig, "decode_only_settings: hidden is listed, but changes tensors used by encode"),
    ],
)
def test_a_wrong_list_is_rejected(cls: type[FrameVQVAE], config: type[FrameVQVAEConfig], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_contract(small(cls, config), random_video())


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
