"""A tokenizer and a prior of a user: registered, built by name, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tokenreel import PRIORS, TOKENIZERS, Prior, TokenSpec, VideoTokenizer
from tokenreel.data.spec import Framing, StreamSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import build_prior
from tokenreel.priors.ngram.prior import UnigramPrior
from tokenreel.sample_random import SampleRandom
from tokenreel.tokenizers.base import Reconstruction, Tokens, build_tokenizer
from tokenreel.tokenizers.frame_vqvae import FrameVQVAE


@dataclass(frozen=True)
class BrightnessConfig:
    type: ClassVar[str] = "brightness"
    levels: int = 7


class Brightness(VideoTokenizer):
    """Tokenizes the mean brightness of each frame in `levels` steps."""

    config_class = BrightnessConfig

    def __init__(self, config: BrightnessConfig, frames: int, framing: Framing) -> None:
        super().__init__(config, TokenSpec((StreamSpec("video", (frames, 1, 1), config.levels),), frames, framing))
        self.weights = nn.Linear(3, 1, bias=False)

    def encode(self, video: Tensor) -> Tokens:
        grey = self.weights(video.mean((3, 4)).transpose(1, 2)).sigmoid()  # [B, T, 1]
        return {"video": (grey * self.config.levels).long()[:, :, :, None, None]}

    def decode(self, tokens: Mapping[str, Tensor], context_buffer: Any = None) -> Tensor:
        size = (self.spec.framing.height, self.spec.framing.width)
        grey = tokens["video"].float().squeeze(-1)[:, None] * 2 / (self.config.levels - 1) - 1
        return grey.expand(-1, 3, -1, *size)

    def forward(self, video: Tensor, random: SampleRandom | None = None) -> Reconstruction:
        return Reconstruction(self.decode(self.encode(video)), {})


@dataclass(frozen=True)
class MyFrequencyConfig:
    type: ClassVar[str] = "my-frequency"
    predicts: tuple[str, ...] = ()
    note: str = ""


class MyFrequency(UnigramPrior):
    config_class = MyFrequencyConfig


SECTION = {"type": "brightness", "levels": 11}
FRAMING = Framing(height=3, width=5)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers them during a test."""
    for registry in (TOKENIZERS, PRIORS):
        monkeypatch.setattr(registry, "_members", dict(registry._members))
    TOKENIZERS.register("brightness", Brightness)
    PRIORS.register("my-frequency", MyFrequency)


@pytest.mark.usefixtures("registered")
def test_a_registered_tokenizer_is_built_saved_and_loaded(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(SECTION, 13, FRAMING)
    assert isinstance(tokenizer, Brightness)
    tokenizer.save_pretrained(tmp_path)
    loaded = VideoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is Brightness
    assert (loaded.config, loaded.spec) == (tokenizer.config, tokenizer.spec)
    assert loaded.fingerprints() == tokenizer.fingerprints()
    video = torch.rand(2, 3, 13, 3, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(loaded.encode(video)["video"], tokenizer.encode(video)["video"])


@pytest.mark.usefixtures("registered")
def test_a_registered_prior_is_built_saved_and_loaded(tmp_path: Path) -> None:
    spec = build_tokenizer(SECTION, 13, FRAMING).spec
    prior = build_prior({"type": "my-frequency", "note": "counted"}, spec)
    prior.prepare([{"video": torch.arange(13).reshape(1, 13, 1, 1, 1) % 11}])
    prior.save_pretrained(tmp_path)
    loaded = Prior.from_pretrained(tmp_path)
    assert type(loaded) is MyFrequency
    assert (loaded.config, loaded.spec) == (prior.config, spec)
    assert loaded.fingerprints() == prior.fingerprints()


def test_an_error_for_an_unregistered_type_says_what_to_do(tmp_path: Path) -> None:
    Brightness(BrightnessConfig(), 13, FRAMING).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.json: .*'brightness'.* import that code first"):
        VideoTokenizer.from_pretrained(tmp_path)


@pytest.mark.usefixtures("registered")
def test_a_class_loads_its_own_models_only(tmp_path: Path) -> None:
    build_tokenizer(SECTION, 13, FRAMING).save_pretrained(tmp_path)
    assert Brightness.from_pretrained(tmp_path).config.levels == 11
    with pytest.raises(ConfigError, match="expected a FrameVQVAE, got a Brightness: use VideoTokenizer"):
        FrameVQVAE.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="expected a Brightness, got a FrameVQVAE: use VideoTokenizer"):
        Brightness.from_preset("lvt-tabletop-tiny")


@pytest.mark.usefixtures("registered")
def test_members_of_another_class_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"not a subclass of tokenreel\.priors\.base:Prior"):
        PRIORS.register("brightness", Brightness)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"tokenreel\.priors\.gpt\.model:GPT has this name"):
        PRIORS.register("gpt", MyFrequency)
