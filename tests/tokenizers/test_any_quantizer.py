"""Every registered quantizer works in every registered tokenizer, and so does one that is registered by a user."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.spec import Framing
from tokenreel.errors import ConfigError
from tokenreel.testing.tokenizers import check_contract, spread_codes
from tokenreel.tokenizers.base import TOKENIZERS, VideoTokenizer, build_tokenizer
from tokenreel.tokenizers.frame_vqvae import FrameVQVAEConfig
from tokenreel.tokenizers.quantizers.base import QUANTIZERS, Quantizer, QuantizerConfig

FRAMES, FRAMING = 4, Framing(height=12, width=20)
SIZES: dict[str, dict[str, Any]] = {
    "context-autoencoder": {"width": 5, "multipliers": [1, 2, 3], "latent": 6, "flow": None},
    "frame-vqvae": {"hidden": 14, "residual": 7, "blocks": 1, "latent": 6},
    "hierarchical-vqvae": {"hidden": 11, "residual": 7, "blocks": 1, "latent": 6, "bottom_stride": [2, 3, 2]},
}


def random_video(clips: int) -> Tensor:
    return torch.rand(clips, 3, FRAMES, 12, 20) * 2 - 1


def small_tokenizer(name: str, **quantizer: Any) -> VideoTokenizer:
    torch.manual_seed(5)
    tokenizer = build_tokenizer({"type": name, **SIZES[name], "quantizer": quantizer}, FRAMES, FRAMING)
    spread_codes(tokenizer)
    tokenizer(random_video(11))  # initialises a data-dependent codebook
    return tokenizer


@pytest.mark.parametrize("quantizer", list(QUANTIZERS))
@pytest.mark.parametrize("tokenizer", list(TOKENIZERS))
def test_contract(tokenizer: str, quantizer: str) -> None:
    """With default settings, so that a new quantizer needs no entry here, except for small codebooks: with more
    codebook vectors than data there are ties, which rounding decides.
    """
    settings = {field.name for field in dataclasses.fields(QUANTIZERS.member(quantizer).config_class)}
    small = {name: value for name, value in {"codebook_size": 13, "codebooks": 2}.items() if name in settings}
    check_contract(small_tokenizer(tokenizer, type=quantizer, **small), random_video(2))


@pytest.mark.parametrize("quantizer", list(QUANTIZERS))
def test_advice_against_collapse_names_existing_settings(quantizer: str) -> None:
    """Every word of it that is a setting of a quantizer is one of this quantizer; the tokenizer returns the same."""
    configs = {name: QUANTIZERS.member(name).config_class for name in QUANTIZERS}
    known = {field.name for config in configs.values() for field in dataclasses.fields(config)}
    named = known & set(re.findall(r"\w+", configs[quantizer]().collapse_advice))
    assert named
    assert named <= {field.name for field in dataclasses.fields(configs[quantizer])}
    assert small_tokenizer("hierarchical-vqvae", type=quantizer).collapse_advice == configs[quantizer]().collapse_advice


@dataclass(frozen=True)
class ThresholdConfig(QuantizerConfig):
    type: ClassVar[str] = "threshold"

    threshold: float = 0.0


class Threshold(Quantizer):
    """Two codes: whether the first channel is above the threshold. All channels become 1 or -1."""

    config_class: ClassVar[type[QuantizerConfig]] = ThresholdConfig
    codebook_size, codebooks = 2, 1

    def __init__(self, config: ThresholdConfig, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim

    def encode_rows(self, rows: Tensor) -> Tensor:
        return (rows[:, :1] > self.config.threshold).long()

    def decode_rows(self, indices: Tensor) -> Tensor:
        return (2.0 * indices - 1.0).expand(-1, self.dim)

    def train_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        indices = self.encode_rows(rows)
        return rows + (self.decode_rows(indices) - rows).detach(), indices, {}


@pytest.fixture
def threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered during a test."""
    monkeypatch.setattr(QUANTIZERS, "_members", dict(QUANTIZERS._members))
    QUANTIZERS.register("threshold", Threshold)


@pytest.mark.usefixtures("threshold")
def test_a_users_quantizer_is_built_saved_and_loaded_by_its_name(tmp_path: Path) -> None:
    tokenizer, video = small_tokenizer("frame-vqvae", type="threshold", threshold=0.1), random_video(2)
    check_contract(tokenizer, video)
    tokenizer.save_pretrained(tmp_path)
    loaded = VideoTokenizer.from_pretrained(tmp_path)
    assert loaded.config.quantizer == ThresholdConfig(0.1)
    assert loaded.collapse_advice == "take fewer codes, or train for more steps"
    assert torch.equal(loaded.encode(video)["video"], tokenizer.encode(video)["video"])


@pytest.mark.usefixtures("threshold")
def test_its_config_survives_the_round_trip_through_plain_data() -> None:
    config = FrameVQVAEConfig(ThresholdConfig(0.3), hidden=12)
    assert to_mapping(config)["quantizer"] == {"type": "threshold", "threshold": 0.3}
    assert from_mapping(FrameVQVAEConfig, to_mapping(config)) == config


@pytest.mark.usefixtures("threshold")
@pytest.mark.parametrize(
    ("quantizer", "words"),
    [
        ({"type": "treshold"}, r"config\.quantizer\.type: no quantizer is called 'treshold'; did you mean 'threshold'"),
        ({"type": "fsqq"}, "no quantizer is called 'fsqq'; did you mean 'fsq'"),
        ({"type": "threshold", "treshold": 0.1}, r"config\.quantizer\.treshold: unknown key; did you mean 'threshold'"),
        ({"threshold": 0.1}, r"config\.quantizer: expected a mapping with 'type', one of .*threshold"),
    ],
)
def test_unknown_quantizers_and_settings_are_rejected(quantizer: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_mapping(FrameVQVAEConfig, {"quantizer": quantizer})
