"""Context decoding: closed and open masks, several contexts, the context buffer, autoregressive decoding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from tokenreel.decoders.context.autoregressive import ContextBuffer, decode_autoregressively
from tokenreel.decoders.context.decoder import ContextDecoder, fuse
from tokenreel.decoders.context.flow import Flow, FlowConfig
from tokenreel.decoders.context.warp import warp
from tokenreel.errors import ConfigError

WIDTHS = [17, 11, 7, 5]  # coarse to fine
FLOW = FlowConfig(widths=(5, 3), channel_fraction=0.75)


def random_decoder(seed: int = 0) -> ContextDecoder:
    """Untrained, but with heads that predict a flow."""
    torch.manual_seed(seed)
    decoder = ContextDecoder(13, WIDTHS, FLOW)
    for module in decoder.flow.modules():
        if hasattr(module, "head"):
            nn.init.normal_(module.head.weight, std=0.5)
    return decoder.eval()


def random_contexts(count: int, rows: int = 2, seed: int = 1) -> list[Tensor]:
    """[N, k, C, h, w] by level, the coarsest 3 x 5."""
    torch.manual_seed(seed)
    sizes = [(3 * 2**level, 5 * 2**level) for level in range(len(WIDTHS))]
    return [torch.randn(rows, count, int(0.75 * w), *size) for w, size in zip(WIDTHS, sizes, strict=True)]


def set_mask(decoder: ContextDecoder, logit: float) -> None:
    """Sets the logits at the coarsest level; finer ones do not change them."""
    for number, level in enumerate(decoder.flow):
        for part in (level.matching, level.subpixel):
            nn.init.zeros_(part.head.weight)
            nn.init.zeros_(part.head.bias)
        if number == 0:
            level.matching.head.bias.data[2] = logit


@torch.no_grad()
def test_with_the_mask_closed_it_decodes_as_without_context() -> None:
    decoder, latents = random_decoder(), torch.randn(2, 13, 3, 5)
    set_mask(decoder, 1e4)
    closed = decoder(latents, random_contexts(3))
    torch.testing.assert_close(closed.pixels, decoder(latents).pixels, rtol=0, atol=0)


@torch.no_grad()
def test_with_the_mask_open_and_no_flow_the_shared_channels_are_the_contexts() -> None:
    decoder, latents = random_decoder(), torch.randn(2, 13, 3, 5)
    set_mask(decoder, -1e4)
    first, other = random_contexts(1), random_contexts(1, seed=3)
    assert not torch.equal(decoder(latents, first).pixels, decoder(latents, other).pixels)
    recorded = []
    decoder.project_out.register_forward_pre_hook(lambda module, inputs: recorded.append(inputs[0]))
    decoder(latents, first)
    torch.testing.assert_close(recorded[0][:, : decoder.shared[-1]], first[-1][:, 0], rtol=0, atol=1e-4)


@torch.no_grad()
def test_every_level_has_a_flow_of_its_own_size() -> None:
    flows = random_decoder()(torch.randn(2, 13, 3, 5), random_contexts(3)).flows
    assert [tuple(flow.displacement.shape) for flow in flows] == [
        (2, 3, 2, 3 * 2**level, 5 * 2**level) for level in range(len(WIDTHS))
    ]
    assert all(flow.displacement.abs().max() > 0 for flow in flows)


@torch.no_grad()
def test_contexts_are_a_set() -> None:
    decoder, latents, contexts = random_decoder(), torch.randn(2, 13, 3, 5), random_contexts(3)
    pixels = decoder(latents, contexts).pixels
    permuted = decoder(latents, [level[:, [2, 0, 1]] for level in contexts]).pixels
    torch.testing.assert_close(pixels, permuted, rtol=1e-4, atol=1e-4)
    one = [level[:, :1] for level in contexts]
    twice = decoder(latents, [level.repeat(1, 2, 1, 1, 1) for level in one]).pixels
    torch.testing.assert_close(twice, decoder(latents, one).pixels, rtol=1e-4, atol=1e-4)


def test_fusion_equals_the_formula_pixel_by_pixel() -> None:
    torch.manual_seed(2)
    decoded, contexts = torch.randn(2, 5, 3, 7), torch.randn(2, 3, 5, 3, 7)
    flow = Flow(torch.randn(2, 3, 2, 3, 7), 2 * torch.randn(2, 3, 1, 3, 7))
    expected = torch.empty_like(decoded)
    for n in range(2):
        warped = [warp(contexts[n : n + 1, k], flow.displacement[n : n + 1, k])[0] for k in range(3)]
        for y in range(3):
            for x in range(7):
                logits = [float(flow.logits[n, k, 0, y, x]) for k in range(3)]
                visible = [1 - 1 / (1 + math.exp(-m)) + 1e-6 for m in logits]
                weights = [v / sum(visible) for v in visible]
                mask = 1 / (1 + math.exp(-sum(w * m for w, m in zip(weights, logits, strict=True))))
                context = sum(w * c[:, y, x] for w, c in zip(weights, warped, strict=True))
                expected[n, :, y, x] = mask * decoded[n, :, y, x] + (1 - mask) * context
    torch.testing.assert_close(fuse(decoded, contexts, flow), expected)


def test_gradients_reach_encoder_features_latents_and_every_weight() -> None:
    decoder, contexts = random_decoder().train(), random_contexts(2)
    latents = torch.randn(2, 13, 3, 5, requires_grad=True)
    for level in contexts:
        level.requires_grad_()
    decoder(latents, contexts).pixels.square().mean().backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in (latents, *contexts))
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_bf16_stays_near_fp32() -> None:
    decoder, latents, contexts = random_decoder(), torch.randn(2, 13, 3, 5), random_contexts(2)
    with torch.no_grad():
        exact = decoder(latents, contexts)
        with torch.autocast("cpu", torch.bfloat16):
            near = decoder(latents, contexts)
    assert all(flow.displacement.dtype == torch.float32 for flow in near.flows)
    assert (near.pixels.float() - exact.pixels).abs().mean() < 0.1 * exact.pixels.abs().mean()


def test_it_compiles_as_one_graph() -> None:
    """aot_eager traces the graphs that inductor would compile, forward and backward, without a C++ compiler."""
    decoder, latents, contexts = ContextDecoder(13, WIDTHS[:2], FLOW), torch.randn(2, 13, 3, 5), random_contexts(2)[:2]
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(latents, contexts).pixels, decoder(latents, contexts).pixels)
    compiled(latents, contexts).pixels.mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def numbered(frame: int) -> list[Tensor]:
    return [torch.full((1, 1, 1, 1), float(frame))]


def numbers_in(context_buffer: ContextBuffer) -> list[int]:
    contexts = context_buffer.contexts()
    return [] if contexts is None else contexts[0].flatten().int().tolist()


@pytest.mark.parametrize(
    ("capacity", "keep_first", "expected"), [(0, 0, []), (1, 0, [6]), (3, 0, [6, 5, 4]), (5, 2, [6, 5, 4, 1, 0])]
)
def test_the_buffer_drops_the_oldest_but_the_first(capacity, keep_first, expected) -> None:
    context_buffer = ContextBuffer(capacity, keep_first)
    for frame in range(7):
        context_buffer.push(numbered(frame))
    assert numbers_in(context_buffer) == expected
    assert len(context_buffer) == len(expected)


def test_an_end_frame_stays_in_the_buffer() -> None:
    context_buffer = ContextBuffer(2, end=numbered(99))
    assert numbers_in(context_buffer) == [99]
    for frame in range(5):
        context_buffer.push(numbered(frame))
    assert numbers_in(context_buffer) == [4, 3, 99]


@pytest.mark.parametrize(("capacity", "keep_first"), [(-1, 0), (3, 3), (3, -1)])
def test_an_invalid_buffer_is_rejected(capacity, keep_first) -> None:
    with pytest.raises(ConfigError, match=f"={capacity}|={keep_first}"):
        ContextBuffer(capacity, keep_first)


@torch.no_grad()
def test_decoding_in_chunks_gives_the_same_video() -> None:
    decoder, latents = random_decoder(), torch.randn(2, 13, 7, 3, 5)

    def video(pieces: list[int]) -> Tensor:
        context_buffer = ContextBuffer(3)
        frames = []
        for part in latents.split(pieces, 2):
            frames += decode_autoregressively(decoder, pooled_features, part, context_buffer)
        return torch.stack([decoded.pixels for decoded in frames], 2)

    assert torch.equal(video([7]), video([2, 1, 4]))
    assert not torch.equal(video([7])[:, :, 1], decoder(latents[:, :, 1]).pixels)


def pooled_features(frames: Tensor) -> list[Tensor]:
    """In place of an encoder: pooled pixels in every channel."""
    return [
        avg_pool2d(frames, 8 >> level).mean(1, keepdim=True).repeat(1, int(0.75 * width), 1, 1)
        for level, width in enumerate(WIDTHS)
    ]


@pytest.mark.parametrize(
    "fields",
    [{"widths": ()}, {"widths": (3, 0)}, {"unrefined": -1}, {"channel_fraction": 0.0}, {"channel_fraction": 1.5}],
)
def test_an_invalid_flow_configuration_is_rejected(fields) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        FlowConfig(**fields)
