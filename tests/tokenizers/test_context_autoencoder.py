"""The context autoencoder keeps the tokenizer's contract, and its context is what it says to be."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tokenizer_contract import check_contract

from tokenreel.data.spec import Framing
from tokenreel.decoders.context.augmented_views import ViewConfig
from tokenreel.decoders.context.flow import FlowConfig
from tokenreel.decoders.context.object_motion import MovingConfig
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.context_autoencoder import ContextAutoencoder, ContextAutoencoderConfig
from tokenreel.tokenizers.quantizers.vq import VQConfig

FRAMES, SIZE = 5, (24, 40)
CONFIG = ContextAutoencoderConfig(
    VQConfig(codebook_size=13, codebooks=2, commitment=0.25, init="kmeans"),
    width=5,
    multipliers=(1, 2, 3),
    latent=6,
    flow=FlowConfig(widths=(7, 5)),
    context=3,
    run=3,
)


def small_tokenizer(config: ContextAutoencoderConfig = CONFIG) -> ContextAutoencoder:
    """Codebooks from data, flow heads that find something."""
    torch.manual_seed(5)
    tokenizer = ContextAutoencoder(config, FRAMES, Framing(*SIZE))
    for level in tokenizer.decoder.flow or ():
        for part in (level.matching, level.subpixel):
            torch.nn.init.normal_(part.head.weight, std=0.3)
    with torch.no_grad():
        tokenizer(some_video(7))
    return tokenizer


def some_video(clips: int, frames: int = FRAMES) -> torch.Tensor:
    return torch.rand(clips, 3, frames, *SIZE) * 2 - 1


@pytest.mark.parametrize("flow", [CONFIG.flow, None], ids=["flow", "no-flow"])
def test_contract(flow) -> None:
    check_contract(small_tokenizer(dataclasses.replace(CONFIG, flow=flow)), some_video(2))


def test_saved_and_loaded_is_the_same_tokenizer(tmp_path) -> None:
    tokenizer, video = small_tokenizer().freeze(), some_video(2)
    tokenizer.save_pretrained(tmp_path)
    loaded = VideoTokenizer.from_pretrained(tmp_path).freeze()
    tokens = tokenizer.encode(video)
    assert loaded.weights_fingerprint == tokenizer.weights_fingerprint
    assert torch.equal(loaded.decode(tokens), tokenizer.decode(tokens))


FLOW_ONLY = ViewConfig(moving=MovingConfig(), flow_only=True, per_clip=2)


@pytest.mark.parametrize(
    ("views", "contextual"),
    [(ViewConfig(), {"flow", "mask"}), (FLOW_ONLY, {"flow"}), (None, set())],
    ids=["views", "flow-only", "no-views"],
)
def test_every_weight_is_trained(views, contextual) -> None:
    tokenizer = small_tokenizer(dataclasses.replace(CONFIG, views=views)).train()
    reconstruction = tokenizer(some_video(2))
    torch.stack(list(reconstruction.losses.values())).sum().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert set(reconstruction.losses) == {"reconstruction", "commitment"} | contextual


def test_pictures_drawn_with_a_view_count_where_views_teach_more_than_flows() -> None:
    for views, pictures in (FLOW_ONLY, 2), (dataclasses.replace(FLOW_ONLY, flow_only=False), 4):
        reconstruction = small_tokenizer(dataclasses.replace(CONFIG, views=views)).train()(some_video(3))
        assert [len(frames) for frames in reconstruction.pictures] == [3 * pictures, 3 * pictures]


def test_consistency_is_what_errors_change_by_from_frame_to_frame() -> None:
    reconstruction = small_tokenizer(dataclasses.replace(CONFIG, consistency=7.0)).train()(some_video(2))
    decoded, true = reconstruction.run
    changes = [decoded[:, :, t] - decoded[:, :, t - 1] - (true[:, :, t] - true[:, :, t - 1]) for t in (1, 2)]
    expected = 7 * torch.stack(changes).abs().mean()
    torch.testing.assert_close(reconstruction.losses["consistency"], expected)


def test_a_training_step_says_what_is_to_be_judged() -> None:
    reconstruction = small_tokenizer().train()(video := some_video(2))
    decoded, true = reconstruction.pictures
    assert decoded.shape == true.shape == (6, 3, *SIZE)  # alone, with another frame, with a view
    assert any(torch.equal(true[:2], frames) for frames in video.unbind(2))
    decoded, true = reconstruction.run
    assert decoded.shape == true.shape == (2, 3, CONFIG.run, *SIZE)
    assert torch.equal(decoded[:, :, 0], true[:, :, 0])
    assert any(torch.equal(true, video[:, :, first : first + CONFIG.run]) for first in range(FRAMES - CONFIG.run + 1))


@torch.no_grad()
def test_without_context_every_frame_is_decoded_on_its_own() -> None:
    tokenizer = small_tokenizer().freeze()
    tokens = tokenizer.encode(some_video(2))
    alone = tokenizer.decode(tokens, tokenizer.new_memory(0))
    frames = [tokenizer.decode({"video": indices}) for indices in tokens["video"].split(1, dim=1)]
    torch.testing.assert_close(alone, torch.cat(frames, 2), rtol=0, atol=1e-5)
    assert not torch.allclose(alone[:, :, 1:], tokenizer.decode(tokens)[:, :, 1:], atol=1e-3)


@torch.no_grad()
def test_frames_before_reach_a_frame_as_far_as_the_memory_goes_and_later_ones_never() -> None:
    """With a capacity of 1 all before are seen through the last decoded one; a true frame is shifted out."""
    tokenizer, video = small_tokenizer().freeze(), some_video(1)
    tokens = tokenizer.encode(video)["video"]
    other = tokens.clone()
    other[:, 2] = (other[:, 2] + 1) % 13
    before, after = (tokenizer.decode({"video": indices}) for indices in (tokens, other))
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert all(not torch.equal(before[:, :, frame], after[:, :, frame]) for frame in (2, 3, 4))


@torch.no_grad()
def test_known_frames_and_an_end_frame_help() -> None:
    tokenizer, video = small_tokenizer().freeze(), some_video(2)
    later = {"video": tokenizer.encode(video)["video"][:, 1:]}
    end = video[:, :, -1]
    versions = [
        tokenizer.decode(later, tokenizer.new_memory(context, known, last))
        for context, known, last in (
            (0, None, None),
            (2, video[:, :, :1], None),
            (2, video[:, :, :1], end),
            (0, None, end),
        )
    ]
    for i, version in enumerate(versions):
        assert not any(torch.allclose(version, other, atol=1e-4) for other in versions[:i])


@torch.no_grad()
def test_a_long_video_decodes_in_pieces() -> None:
    tokenizer = small_tokenizer().freeze()
    indices = tokenizer.encode(some_video(1, frames=11))["video"]
    memory = tokenizer.new_memory()
    pieces = [tokenizer.decode({"video": piece}, memory) for piece in indices.split([2, 5, 4], dim=1)]
    assert torch.equal(torch.cat(pieces, 2), tokenizer.decode({"video": indices}))


def test_a_tokenizer_without_flow_has_no_context() -> None:
    tokenizer = small_tokenizer(dataclasses.replace(CONFIG, flow=None))
    with pytest.raises(ConfigError, match=r"context \(=2\) must be 0"):
        tokenizer.new_memory(2)


def test_a_clip_of_one_frame_has_no_flow_to_learn() -> None:
    with pytest.raises(ConfigError, match=r"frames \(=1\)"):
        ContextAutoencoder(CONFIG, 1, Framing(*SIZE))
    ContextAutoencoder(dataclasses.replace(CONFIG, flow=None), 1, Framing(*SIZE))


@pytest.mark.parametrize("frames", [2, 3])
def test_a_frame_is_never_its_own_context(frames: int) -> None:
    """Decoded with itself it would only teach to copy."""
    tokenizer, seen = small_tokenizer(dataclasses.replace(CONFIG, views=None)).train(), []
    tokenizer.features = lambda frames: seen.append(frames) or ContextAutoencoder.features(tokenizer, frames)
    for _ in range(11):
        seen.clear()
        target = tokenizer(some_video(2, frames)).pictures[1][:2]
        assert not torch.equal(seen[-1], target)


@pytest.mark.parametrize(
    "fields",
    [
        {"multipliers": (1,)},
        {"width": 0},
        {"run": 1},
        {"latent": 0},
        {"context": -1},
        {"keep_first": -1},
        {"keep_first": 3},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(CONFIG, **fields)
