"""The context autoencoder fulfils the tokenizer contract, and decodes with the context that is configured."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tokenreel.data.spec import Framing
from tokenreel.decoders.context.augmented_views import AugmentedViewConfig
from tokenreel.decoders.context.decoder import ContextDecoder
from tokenreel.decoders.context.flow import FlowConfig
from tokenreel.decoders.context.object_motion import ObjectMotionConfig
from tokenreel.errors import ConfigError
from tokenreel.testing.tokenizers import check_contract
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import ContextAutoencoder, ContextAutoencoderConfig
from tokenreel.tokenizers.encoders.pyramid_encoder import PyramidEncoder
from tokenreel.tokenizers.quantizers.vq import VQConfig

FRAMES, SIZE = 5, (24, 40)
CONFIG = ContextAutoencoderConfig(
    VQConfig(codebook_size=13, codebooks=2, commitment=0.25, init="kmeans"),
    width=5,
    multipliers=(1, 2, 3),
    latent=6,
    flow=FlowConfig(widths=(7, 5)),
    context=3,
    autoregressive_frames=3,
)


def small_tokenizer(config: ContextAutoencoderConfig = CONFIG) -> ContextAutoencoder:
    """Codebooks from data, flow heads that predict a flow."""
    torch.manual_seed(5)
    tokenizer = ContextAutoencoder(config, FRAMES, Framing(*SIZE))
    for level in tokenizer.decoder.flow or ():
        for part in (level.matching, level.subpixel):
            torch.nn.init.normal_(part.head.weight, std=0.3)
    with torch.no_grad():
        tokenizer(random_video(7))
    return tokenizer


def random_video(clips: int, frames: int = FRAMES) -> torch.Tensor:
    return torch.rand(clips, 3, frames, *SIZE) * 2 - 1


@pytest.mark.parametrize("flow", [CONFIG.flow, None], ids=["flow", "no-flow"])
def test_contract(flow) -> None:
    check_contract(small_tokenizer(dataclasses.replace(CONFIG, flow=flow)), random_video(2))


def test_saved_and_loaded_is_the_same_tokenizer(tmp_path) -> None:
    tokenizer, video = small_tokenizer().freeze(), random_video(2)
    tokenizer.save_pretrained(tmp_path)
    loaded = VideoTokenizer.from_pretrained(tmp_path).freeze()
    tokens = tokenizer.encode(video)
    assert loaded.weights_fingerprint == tokenizer.weights_fingerprint
    assert torch.equal(loaded.decode(tokens), tokenizer.decode(tokens))


FLOW_ONLY = AugmentedViewConfig(object_motion=ObjectMotionConfig(), flow_only=True, frames_per_clip=2)


@pytest.mark.parametrize(
    ("views", "contextual"),
    [(AugmentedViewConfig(), {"flow", "mask"}), (FLOW_ONLY, {"flow"}), (None, set())],
    ids=["views", "flow-only", "no-views"],
)
def test_every_weight_is_trained(views, contextual) -> None:
    tokenizer = small_tokenizer(dataclasses.replace(CONFIG, augmented_views=views)).train()
    reconstruction = tokenizer(random_video(2))
    torch.stack(list(reconstruction.losses.values())).sum().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert set(reconstruction.losses) == {"reconstruction", "commitment"} | contextual


def test_frames_decoded_with_a_view_are_judged_unless_views_train_only_the_flow() -> None:
    for views, decodings in (FLOW_ONLY, 2), (dataclasses.replace(FLOW_ONLY, flow_only=False), 4):
        reconstruction = small_tokenizer(dataclasses.replace(CONFIG, augmented_views=views)).train()(random_video(3))
        assert [len(frames) for frames in reconstruction.judged_frames] == [3 * decodings, 3 * decodings]


def test_consistency_is_the_change_of_errors_between_frames() -> None:
    reconstruction = small_tokenizer(dataclasses.replace(CONFIG, consistency=7.0)).train()(random_video(2))
    decoded, true = reconstruction.judged_clips
    changes = [decoded[:, :, t] - decoded[:, :, t - 1] - (true[:, :, t] - true[:, :, t - 1]) for t in (1, 2)]
    expected = 7 * torch.stack(changes).abs().mean()
    torch.testing.assert_close(reconstruction.losses["consistency"], expected)


def test_a_training_step_returns_judged_frames_and_clips() -> None:
    reconstruction = small_tokenizer().train()(video := random_video(2))
    decoded, true = reconstruction.judged_frames
    assert decoded.shape == true.shape == (6, 3, *SIZE)  # without context, with another frame, with a view
    for clip, chosen in zip(video, true[:2], strict=True):
        assert any(torch.equal(chosen, frame) for frame in clip.unbind(1))
    decoded, true = reconstruction.judged_clips
    assert decoded.shape == true.shape == (2, 3, CONFIG.autoregressive_frames, *SIZE)
    assert torch.equal(decoded[:, :, 0], true[:, :, 0])
    windows = video.unfold(2, CONFIG.autoregressive_frames, 1).movedim(-1, 3).unbind(2)
    for number, clip in enumerate(true):
        assert any(torch.equal(clip, window[number]) for window in windows)


@torch.no_grad()
def test_convolutions_of_single_pixels_widen_what_they_get() -> None:
    """Linear ones would not: of RGB they would make features of rank 3 whatever their width."""
    torch.manual_seed(0)
    encoder, decoder = PyramidEncoder([5, 19], 17).double(), ContextDecoder(3, [13, 5], None).double()
    latents, features = encoder(torch.rand(2, 3, 24, 40, dtype=torch.float64) * 2 - 1)
    assert rank(features[-1]) == 19
    assert rank(latents) > 5
    entered = []
    decoder.blocks[0].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    decoder(torch.randn(2, 3, 12, 20, dtype=torch.float64))
    assert rank(entered[0]) > 3


def rank(features: torch.Tensor) -> int:
    """Dimensions that the vectors of features [N, C, h, w] span."""
    return int(torch.linalg.matrix_rank(features.movedim(1, -1).flatten(0, 2)))


@torch.no_grad()
def test_without_context_every_frame_is_decoded_on_its_own() -> None:
    tokenizer = small_tokenizer().freeze()
    tokens = tokenizer.encode(random_video(2))
    alone = tokenizer.decode(tokens, tokenizer.new_context_buffer(0))
    frames = [tokenizer.decode({"video": indices}) for indices in tokens["video"].split(1, dim=1)]
    torch.testing.assert_close(alone, torch.cat(frames, 2), rtol=0, atol=1e-5)
    assert not torch.allclose(alone[:, :, 1:], tokenizer.decode(tokens)[:, :, 1:], atol=1e-3)


@torch.no_grad()
def test_tokens_affect_their_own_and_later_frames_only() -> None:
    tokenizer, video = small_tokenizer().freeze(), random_video(1)
    tokens = tokenizer.encode(video)["video"]
    other = tokens.clone()
    other[:, 2] = (other[:, 2] + 1) % 13
    before, after = (tokenizer.decode({"video": indices}) for indices in (tokens, other))
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert all(not torch.equal(before[:, :, frame], after[:, :, frame]) for frame in (2, 3, 4))


@torch.no_grad()
def test_given_frames_and_an_end_frame_change_the_result() -> None:
    tokenizer, video = small_tokenizer().freeze(), random_video(2)
    later = {"video": tokenizer.encode(video)["video"][:, 1:]}
    end = video[:, :, -1]
    versions = [
        tokenizer.decode(later, tokenizer.new_context_buffer(context, given, last))
        for context, given, last in (
            (0, None, None),
            (2, video[:, :, :1], None),
            (2, video[:, :, :1], end),
            (0, None, end),
        )
    ]
    for i, version in enumerate(versions):
        assert not any(torch.allclose(version, other, atol=1e-4) for other in versions[:i])


@torch.no_grad()
def test_a_long_video_decodes_in_chunks() -> None:
    tokenizer = small_tokenizer().freeze()
    indices = tokenizer.encode(random_video(1, frames=11))["video"]
    context_buffer = tokenizer.new_context_buffer()
    pieces = [tokenizer.decode({"video": piece}, context_buffer) for piece in indices.split([2, 5, 4], dim=1)]
    assert torch.equal(torch.cat(pieces, 2), tokenizer.decode({"video": indices}))


def test_a_tokenizer_without_flow_has_no_context() -> None:
    tokenizer = small_tokenizer(dataclasses.replace(CONFIG, flow=None))
    with pytest.raises(ConfigError, match=r"context \(=2\) must be 0"):
        tokenizer.new_context_buffer(2)


def test_a_clip_of_one_frame_is_too_short_for_flow() -> None:
    with pytest.raises(ConfigError, match=r"frames \(=1\)"):
        ContextAutoencoder(CONFIG, 1, Framing(*SIZE))
    ContextAutoencoder(dataclasses.replace(CONFIG, flow=None), 1, Framing(*SIZE))


@pytest.mark.parametrize("frames", [2, 3])
def test_a_frame_is_never_its_own_context(frames: int) -> None:
    """Decoded with itself as context it would only learn to copy."""
    tokenizer, calls = small_tokenizer(dataclasses.replace(CONFIG, augmented_views=None)).train(), []
    tokenizer.features = lambda frames: calls.append(frames) or ContextAutoencoder.features(tokenizer, frames)
    for _ in range(11):
        calls.clear()
        target = tokenizer(random_video(2, frames)).judged_frames[1][:2]
        assert not torch.equal(calls[-1], target)


@pytest.mark.parametrize(
    "fields",
    [
        {"multipliers": (1,)},
        {"width": 0},
        {"autoregressive_frames": 1},
        {"latent": 0},
        {"context": -1},
        {"keep_first": -1},
        {"keep_first": 3},
    ],
)
def test_an_invalid_configuration_is_rejected(fields) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(CONFIG, **fields)
