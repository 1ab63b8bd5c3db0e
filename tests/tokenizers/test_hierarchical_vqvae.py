"""The hierarchical 3D VQ-VAE fulfils the contract, needs both of its levels, and has the paper's sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.data.spec import Framing, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.testing.tokenizers import check_contract, spread_codes
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.hierarchical_vqvae import GIVEN_STREAMS, LEVELS, HierarchicalVQVAE, HierarchicalVQVAEConfig
from tokenreel.tokenizers.quantizers.vq import VQConfig

FRAMES, GIVEN, FRAMING = 8, 4, Framing(height=12, width=20)  # a top token: 4 frames of 6 x 4 pixels
VQ = VQConfig(codebook_size=13, commitment=0.25, decay=0.9, init="kmeans", revive_below=0.05)
SMALL = {"hidden": 11, "residual": 7, "blocks": 1, "latent": 5, "bottom_stride": (2, 3, 2), "top_stride": (2, 2, 2)}


def untrained(**settings: Any) -> HierarchicalVQVAE:
    torch.manual_seed(5)
    return HierarchicalVQVAE(HierarchicalVQVAEConfig(VQ, **{**SMALL, **settings}), FRAMES, FRAMING)


def small_tokenizer(**settings: Any) -> HierarchicalVQVAE:
    tokenizer = untrained(**settings)
    spread_codes(tokenizer)
    tokenizer(noise(7))  # initialises the codebooks
    return tokenizer


def noise(clips: int) -> Tensor:
    return torch.rand(clips, 3, FRAMES, 12, 20) * 2 - 1


def blobs(clips: int, seed: int) -> Tensor:
    """Smooth colours that change slowly, and a fine grating whose phase is each clip's own: work for both levels."""
    generator = torch.Generator().manual_seed(seed)
    smooth = functional.interpolate(torch.rand(clips, 3, 2, 2, 3, generator=generator) * 1.4 - 0.7, (FRAMES, 12, 20))
    phase = torch.randint(0, 4, (clips, 1, 1, 1, 1), generator=generator)
    grating = torch.where((torch.arange(20) + phase) % 4 < 2, 0.25, -0.25)
    return smooth + grating


@pytest.fixture(scope="module")
def trained() -> HierarchicalVQVAE:
    tokenizer = untrained(hidden=16, mask_bottom=0.3).train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), 4e-3)
    for step in range(150):
        optimizer.zero_grad()
        sum(tokenizer(blobs(12, seed=step)).losses.values()).backward()
        optimizer.step()
    return tokenizer.freeze()


def psnr(decoded: Tensor, video: Tensor) -> float:
    return -10 * math.log10(functional.mse_loss(decoded, video).item() / 4)


@pytest.mark.parametrize("condition_bottom", [True, False])
def test_contract(condition_bottom: bool) -> None:
    check_contract(small_tokenizer(condition_bottom=condition_bottom), noise(2))


def test_given_frames_are_encoded_without_later_ones() -> None:
    """Control streams do not depend on pixels after the given frames; levels do."""
    tokenizer, video = small_tokenizer().freeze(), noise(3)
    changed = torch.cat([video[:, :, :GIVEN], noise(3)[:, :, GIVEN:]], dim=2)
    tokens, others = tokenizer.encode(video), tokenizer.encode(changed)
    given = tokenizer.encode(video[:, :, :GIVEN])
    assert tokenizer.spec.time == "window"
    for level, name in GIVEN_STREAMS.items():
        assert torch.equal(tokens[name], others[name])
        assert torch.equal(tokens[name], given[level])
        assert (tokens[level][:, : tokens[name].shape[1]] != others[level][:, : tokens[name].shape[1]]).any()


def test_streams_have_the_grids_of_their_strides() -> None:
    spec = small_tokenizer().spec
    described = {stream.name: (stream.shape, stream.stride, stream.role) for stream in spec.streams}
    assert described == {
        "top": ((2, 2, 5, 1), 4, "level"),
        "bottom": ((4, 4, 10, 1), 2, "level"),
        "top_given": ((1, 2, 5, 1), 4, "control"),
        "bottom_given": ((2, 4, 10, 1), 2, "control"),
    }


@pytest.mark.parametrize("level", LEVELS)
def test_both_levels_are_needed(trained: HierarchicalVQVAE, level: str) -> None:
    video = blobs(16, seed=1000)
    tokens = trained.encode(video)
    shuffled = tokens[level].flatten()[torch.randperm(tokens[level].numel())].view_as(tokens[level])
    assert psnr(trained.decode({**tokens, level: shuffled}), video) < psnr(trained.decode(tokens), video) - 0.5


def test_the_top_alone_decodes_to_a_coarse_video(trained: HierarchicalVQVAE) -> None:
    video = blobs(16, seed=1000)
    tokens = trained.encode(video)
    coarse = psnr(trained.decode_top(tokens["top"]), video)
    mean_color = video.mean(dim=(0, 2, 3, 4), keepdim=True).expand_as(video)
    assert psnr(mean_color, video) + 0.5 < coarse < psnr(trained.decode(tokens), video)


def test_training_decodes_masked_clips_from_the_top_alone() -> None:
    tokenizer, video = small_tokenizer(mask_bottom=0.5), noise(16)
    tokens = tokenizer.encode(video)
    full, coarse = tokenizer.decode(tokens), tokenizer.decode_top(tokens["top"])
    torch.manual_seed(3)
    decoded = tokenizer(video).video
    masked = [torch.allclose(clip, other, atol=1e-5) for clip, other in zip(decoded, coarse, strict=True)]
    kept = [torch.allclose(clip, other, atol=1e-5) for clip, other in zip(decoded, full, strict=True)]
    assert [not mask for mask in masked] == kept
    assert 0 < sum(masked) < 16


def test_masking_depends_on_the_seed_only() -> None:
    def masked_losses(seed: int) -> Tensor:
        tokenizer = small_tokenizer(mask_bottom=0.5)
        torch.manual_seed(7)
        video = noise(16)
        torch.manual_seed(seed)
        return tokenizer(video).losses["reconstruction"]

    assert torch.equal(masked_losses(3), masked_losses(3))
    assert not torch.equal(masked_losses(3), masked_losses(5))


def test_every_weight_is_trained() -> None:
    tokenizer = small_tokenizer(mask_bottom=0.5).train()
    sum(tokenizer(noise(16)).losses.values()).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_each_level_has_its_own_codebook_and_counts() -> None:
    tokenizer, video = small_tokenizer().freeze(), noise(3)
    tokens, output = tokenizer.encode(video), tokenizer(video)
    assert not torch.equal(tokenizer.top_quantizer.codebook, tokenizer.bottom_quantizer.codebook)
    assert set(output.losses) == {"reconstruction", "top_commitment", "bottom_commitment"}
    for level in LEVELS:
        assert torch.equal(output.code_counts[level][0], torch.bincount(tokens[level].flatten(), minlength=13))


def test_saved_and_loaded_is_the_same_tokenizer(tmp_path: Any) -> None:
    tokenizer, video = small_tokenizer(condition_bottom=False, mask_bottom=0.3).freeze(), noise(2)
    tokenizer.save_pretrained(tmp_path)
    loaded = VideoTokenizer.from_pretrained(tmp_path).freeze()
    assert loaded.config == tokenizer.config
    assert loaded.weights_fingerprint == tokenizer.weights_fingerprint
    indices, again = tokenizer.encode(video), loaded.encode(video)
    assert all(torch.equal(indices[name], again[name]) for name in indices)


def test_encoding_during_training_changes_no_state() -> None:
    tokenizer, video = small_tokenizer().train(), noise(2)
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    indices, frozen = tokenizer.encode(video), tokenizer.freeze().encode(video)
    assert all(torch.equal(indices[name], frozen[name]) for name in indices)
    assert all(torch.equal(before[name], tensor) for name, tensor in tokenizer.state_dict().items())


def test_autocast_trains_and_decodes_in_float32() -> None:
    tokenizer, video = small_tokenizer().train(), noise(2)
    with torch.autocast("cpu", torch.bfloat16):
        output = tokenizer(video)
        decoded = tokenizer.freeze().decode(tokenizer.encode(video))
    assert output.video.dtype == decoded.dtype == torch.float32
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in output.losses.values())


def test_shapes_at_the_papers_size() -> None:
    """Section 3.1 and table 5, through the networks themselves, on the meta device."""
    with torch.device("meta"):
        tokenizer = VideoTokenizer.from_preset("video-vqvae-kinetics-paper")
        assert isinstance(tokenizer, HierarchicalVQVAE)
        for frames, top, bottom in ((16, (4, 32, 32), (8, 64, 64)), (4, (1, 32, 32), (2, 64, 64))):
            features = tokenizer.encoder.features(torch.empty(1, 3, frames, 256, 256))
            tops = tokenizer.encoder.top_latents(features)
            bottoms = tokenizer.encoder.bottom_latents(features, tops)
            assert (tops.shape, bottoms.shape) == ((1, 64, *top), (1, 64, *bottom))
            assert tokenizer.decoder(tops, bottoms).shape == (1, 3, frames, 256, 256)
    grids = {stream.name: (stream.grid, stream.codebook_size) for stream in tokenizer.spec.streams}
    assert grids == {
        "top": ((4, 32, 32), 512),
        "bottom": ((8, 64, 64), 512),
        "top_given": ((1, 32, 32), 512),
        "bottom_given": ((2, 64, 64), 512),
    }


def test_the_paper_saves_more_than_98_percent_of_the_bits() -> None:
    """Section 1: "only 1.3 % of the bits expressed in pixels"."""
    with torch.device("meta"):
        spec = VideoTokenizer.from_preset("video-vqvae-kinetics-paper").spec
    assert spec.bits == (64 * 64 * 8 + 32 * 32 * 4) * 9
    assert spec.compression == pytest.approx(1 - 331_776 / 25_165_824)
    assert 0.986 < spec.compression < 0.987
    assert TokenSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: small_tokenizer(given_frames=3), r"given_frames \(=3\) must be a multiple of 4.*use 4"),
        (lambda: small_tokenizer(given_frames=0), r"given_frames \(=0\) must be a multiple of 4.*use 4"),
        (lambda: small_tokenizer(given_frames=12), r"given_frames \(=12\) must be at most 8"),
        (lambda: HierarchicalVQVAE(HierarchicalVQVAEConfig(), 18, Framing(64, 64)), r"frames \(=18\).*use 16 or 20"),
        (lambda: HierarchicalVQVAE(HierarchicalVQVAEConfig(), 16, Framing(60, 64)), r"height \(=60\).*use 56 or 64"),
        (lambda: HierarchicalVQVAE(HierarchicalVQVAEConfig(), 16, Framing(64, 5)), r"width \(=5\).*of 8.*use 8"),
        (lambda: HierarchicalVQVAEConfig(latent=0), "latent"),
        (lambda: HierarchicalVQVAEConfig(mask_bottom=1.5), r"mask_bottom \(=1.5\)"),
        (lambda: small_tokenizer().encode(noise(2)[:, :, :6]), "multiple of 4"),
        (lambda: small_tokenizer().encode(noise(2).mT), "must be"),
        (lambda: small_tokenizer().decode({"top": torch.zeros(1, 2, 2, 5, 1)}), "lack level 'bottom'"),
    ],
)
def test_invalid_configurations_are_rejected(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
