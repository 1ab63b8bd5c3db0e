"""The frame VQ-VAE fulfils the tokenizer contract with every quantizer, and has the paper's sizes."""

from __future__ import annotations

import json

import pytest
import torch

from tokenreel.config import from_mapping, load_preset, preset_names, to_mapping
from tokenreel.data.spec import Framing, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.hub import fingerprint
from tokenreel.testing.tokenizers import check_contract, spread_codes
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.frame_vqvae import FrameVQVAE, FrameVQVAEConfig
from tokenreel.tokenizers.quantizers.base import QuantizerConfig
from tokenreel.tokenizers.quantizers.fsq import FSQConfig
from tokenreel.tokenizers.quantizers.lfq import LFQConfig
from tokenreel.tokenizers.quantizers.rvq import RVQConfig
from tokenreel.tokenizers.quantizers.vq import VQConfig

QUANTIZERS = [
    VQConfig(codebook_size=13, init="kmeans"),
    VQConfig(codebook_size=11, codebooks=3, init="data", revive_below=0.1),
    VQConfig(codebook_size=17, init="uniform"),
    FSQConfig(levels=(5, 3)),
    LFQConfig(bits=3, codebooks=2),
    RVQConfig(codebook_size=7, codebooks=3),
]
TOKENIZER_PRESETS = [
    *("gpt-tabletop-tiny", "lvt-bair-paper", "lvt-bair-paper-kmeans", "lvt-kinetics-paper", "lvt-tabletop-tiny"),
]


def small_tokenizer(quantizer: QuantizerConfig) -> FrameVQVAE:
    torch.manual_seed(5)
    config = FrameVQVAEConfig(quantizer, hidden=20, residual=7, blocks=1, downsamplings=2, latent=6)
    tokenizer = FrameVQVAE(config, frames=3, framing=Framing(height=20, width=28))
    spread_codes(tokenizer)
    tokenizer(random_video(7))  # initialises a data-dependent codebook
    return tokenizer


def random_video(clips: int) -> torch.Tensor:
    return torch.rand(clips, 3, 3, 20, 28) * 2 - 1


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda config: f"{config.type}-q{config.codebooks}")
def test_contract(quantizer):
    check_contract(small_tokenizer(quantizer), random_video(2))


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda config: f"{config.type}-q{config.codebooks}")
def test_saved_and_loaded_is_the_same_tokenizer(quantizer, tmp_path):
    tokenizer, video = small_tokenizer(quantizer).freeze(), random_video(2)
    tokenizer.save_pretrained(tmp_path)
    loaded = VideoTokenizer.from_pretrained(tmp_path).freeze()
    assert loaded.weights_fingerprint == tokenizer.weights_fingerprint
    assert torch.equal(loaded.encode(video)["video"], tokenizer.encode(video)["video"])


@pytest.mark.parametrize("added", ["blocks", "revive_below"])
def test_settings_added_after_saving_do_not_change_fingerprints(added, tmp_path):
    """A setting of the encoder, on which tokens depend, and one of the quantizer's training, both at defaults."""
    tokenizer = FrameVQVAE(FrameVQVAEConfig(hidden=20, residual=7, latent=6), 3, Framing(height=20, width=28))
    tokenizer.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    config, weights = document["config"], tokenizer.state_dict()
    (config if added == "blocks" else config["quantizer"]).pop(added)
    own = {"config": config, "spec": document["spec"]}
    names = ("type", "hidden", "residual", "blocks", "downsamplings", "latent")
    settings = {name: config[name] for name in names if name in config}
    settings["quantizer"] = {name: config["quantizer"][name] for name in ("type", "codebook_size", "codebooks")}
    coding = {name: tensor for name, tensor in weights.items() if name.startswith(("encoder.", "quantizer."))}
    expected = {
        "codes": fingerprint({"config": settings, "spec": document["spec"]}, coding),
        "weights": fingerprint(own, weights),
    }
    text = json.dumps(document | {"fingerprints": expected}, indent=2, sort_keys=True) + "\n"
    (tmp_path / "config.json").write_text(text)
    loaded = VideoTokenizer.from_pretrained(tmp_path)
    assert loaded.fingerprints() == expected
    assert (expected["codes"] == tokenizer.code_fingerprint) == (added == "revive_below")
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == text


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda config: f"{config.type}-q{config.codebooks}")
def test_every_weight_is_trained(quantizer):
    """Gradients pass the quantizer: without the straight-through estimator the encoder would have none."""
    tokenizer = small_tokenizer(quantizer).train()
    sum(tokenizer(random_video(2)).losses.values()).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_training_lowers_the_reconstruction_error():
    tokenizer, video = small_tokenizer(VQConfig(codebook_size=13)).train(), random_video(2)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    errors = []
    for _ in range(60):
        losses = tokenizer(video).losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        errors.append(losses["reconstruction"].item())
    assert errors[-1] < 0.9 * errors[0]


def test_autocast_leaves_the_quantizer_in_full_precision():
    """The same latents have the same indices in bf16 training as later in fp32."""
    tokenizer, latents = small_tokenizer(VQConfig(codebook_size=13)).freeze(), torch.randn(2, 6, 3, 5, 7)
    plain = tokenizer.quantizer(latents)
    with torch.autocast("cpu", torch.bfloat16):
        cast = tokenizer.quantizer(latents)
        assert tokenizer(random_video(2)).video.dtype == torch.float32
    assert torch.equal(plain.indices, cast.indices)
    assert torch.equal(plain.latents, cast.latents)


def test_encoding_works_without_freezing():
    """As in the middle of training."""
    tokenizer, video = small_tokenizer(VQConfig(codebook_size=13)), random_video(2)
    assert torch.equal(tokenizer.encode(video)["video"], tokenizer.freeze().encode(video)["video"])


def test_clips_of_any_length_are_encoded_frame_by_frame():
    tokenizer = small_tokenizer(VQConfig(codebook_size=13)).freeze()
    long = torch.rand(2, 3, 7, 20, 28) * 2 - 1
    indices = tokenizer.encode(long)["video"]
    assert torch.equal(indices[:, 5:6], tokenizer.encode(long[:, :, 5:6])["video"])


def test_paper_parameters():
    """LVT section 4.1, counted by hand: convolutions with biases, D = hidden = 256, so no projection to D."""

    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + outputs

    blocks = 2 * (conv(256, 128, 3) + conv(128, 256, 1))
    encoder = conv(3, 128, 4) + conv(128, 256, 4) + conv(256, 256, 3) + blocks
    decoder = conv(256, 256, 3) + blocks + conv(256, 128, 4) + conv(128, 3, 4)
    with torch.device("meta"):
        tokenizer = VideoTokenizer.from_preset("lvt-bair-paper")
    assert sum(p.numel() for p in tokenizer.encoder.parameters()) == encoder
    assert sum(p.numel() for p in tokenizer.decoder.parameters()) == decoder
    assert tokenizer.spec.stream("video").shape == (16, 16, 16, 4)
    assert tokenizer.quantizer.codebook.shape == (4, 512, 64)


def test_all_frame_vqvaes_of_the_presets_are_tested_here():
    """Presets with a base of the same tokenizer count as one."""
    presets = {name: load_preset(name).get("tokenizer", {}) for name in preset_names()}
    tested = [presets[name] for name in TOKENIZER_PRESETS]
    assert all(built in tested for built in presets.values() if built.get("type") == "frame-vqvae")


@pytest.mark.parametrize("name", TOKENIZER_PRESETS)
def test_preset_builds_and_its_spec_survives_json(name):
    with torch.device("meta"):
        tokenizer = VideoTokenizer.from_preset(name)
    assert TokenSpec.from_json(tokenizer.spec.to_json()) == tokenizer.spec


@pytest.mark.parametrize("name", [name for name in TOKENIZER_PRESETS if name.endswith("-tiny")])
def test_tiny_preset_trains_two_steps(name):
    torch.manual_seed(3)
    tokenizer = VideoTokenizer.from_preset(name)
    framing = tokenizer.spec.framing
    video = torch.rand(2, 3, 3, framing.height, framing.width) * 2 - 1
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-3)
    errors = []
    for _ in range(3):
        losses = tokenizer(video).losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        errors.append(losses["reconstruction"].item())
    assert errors[2] < errors[0]


def test_config_round_trip_picks_the_quantizer_by_type():
    config = FrameVQVAEConfig(FSQConfig(levels=(7, 5)), hidden=12)
    assert from_mapping(FrameVQVAEConfig, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FrameVQVAE(FrameVQVAEConfig(), 3, Framing(20, 30)), "framing.width"),
        (lambda: FrameVQVAE(FrameVQVAEConfig(VQConfig(codebooks=3)), 3, Framing(20, 28)), "codebooks"),
        (lambda: FrameVQVAEConfig(hidden=3, downsamplings=3), "hidden"),
        (lambda: FrameVQVAEConfig(latent=0), "latent"),
        (lambda: small_tokenizer(VQConfig(codebook_size=13)).encode(torch.zeros(1, 3, 2, 28, 20)), "must be"),
    ],
)
def test_invalid_configurations_are_rejected(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
