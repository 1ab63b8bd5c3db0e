"""The parts of DVD-GAN's generator against their formulas, written out in loops."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.decoders.generators.dvd_gan.attention import SelfAttention, SeparableAttention
from tokenreel.decoders.generators.dvd_gan.config import AttentionConfig
from tokenreel.decoders.generators.dvd_gan.groups import GeneratorBlock
from tokenreel.decoders.generators.dvd_gan.gru import ConvGRU
from tokenreel.decoders.generators.dvd_gan.normalisation import ConditionalNorm


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _four_equations(gru: ConvGRU, x: Tensor, h: Tensor) -> Tensor:
    """The paper's update rule (appendix B.2), frame by frame: x [B, T, C, h, w]."""
    states = []
    for x_t in x.unbind(1):
        r = torch.sigmoid(gru.reset(torch.cat([h, x_t], 1)))
        u = torch.sigmoid(gru.update(torch.cat([h, x_t], 1)))
        c = torch.relu(gru.candidate(torch.cat([x_t, r * h], 1)))
        h = u * h + (1 - u) * c
        states.append(h)
    return torch.stack(states, 1)


def test_the_gru_is_the_four_equations() -> None:
    gru, x, state = ConvGRU(3).double(), _random(2, 5, 3, 4, 7), _random(2, 3, 4, 7, seed=1)
    torch.testing.assert_close(gru(x, state, 5), _four_equations(gru, x, state))
    same = x[:, :1]
    torch.testing.assert_close(gru(same, state, 5), _four_equations(gru, same.expand(-1, 5, -1, -1, -1), state))


def test_conditional_norm_is_a_batch_norm_of_each_time_step() -> None:
    norm, x, condition = ConditionalNorm("batch_time", 3, 5, 11).double(), _random(7, 5, 3, 2, 4), _random(7, 11)
    scale, shift = condition @ norm.scale.weight.T, condition @ norm.shift.weight.T
    steps = [nn.BatchNorm2d(3, affine=False).double() for _ in range(5)]
    for _ in range(2):  # in training, then in evaluation
        expected = [
            step(x[:, t]) * (1 + scale[..., None, None]) + shift[..., None, None] for t, step in enumerate(steps)
        ]
        torch.testing.assert_close(norm(x, condition), torch.stack(expected, 1))
        for module in (norm, *steps):
            module.eval()


def test_other_normalisations_are_those_of_torch() -> None:
    x, nothing = _random(7, 5, 6, 2, 4), torch.zeros(7, 11, dtype=torch.float64)  # so that nothing is scaled
    frames = x.flatten(0, 1)
    references = {
        "batch": functional.batch_norm(frames, None, None, training=True),
        "group": functional.group_norm(frames, 2),  # the common divisor of 6 channels and 32
        "layer": functional.layer_norm(frames, frames.shape[1:]),
        "instance": functional.instance_norm(frames),
        "none": frames,
    }
    for kind, expected in references.items():
        norm = ConditionalNorm(kind, 6, 5, 11).double()  # type: ignore[arg-type]
        torch.testing.assert_close(norm(x, nothing).flatten(0, 1), expected, msg=kind)


def _figure_7(block: GeneratorBlock, x: Tensor, condition: Tensor) -> Tensor:
    """Of one frame, with the 1 x 1 convolution after the upsampling."""
    up = (lambda y: y.repeat_interleave(2, 2).repeat_interleave(2, 3)) if block.doubles else (lambda y: y)
    inner = block.first(up(torch.relu(block.first_norm(x[:, None], condition)[:, 0])))
    inner = block.second(torch.relu(block.second_norm(inner[:, None], condition)[:, 0]))
    return inner + block.skip(up(x))


def test_the_residual_block_is_that_of_figure_7() -> None:
    x, condition = _random(2, 5, 3, 4, 7), _random(2, 11)
    for outputs, doubles in ((3, False), (5, False), (3, True), (5, True)):
        block = GeneratorBlock(3, outputs, doubles, lambda c: ConditionalNorm("instance", c, 1, 11)).double()
        assert isinstance(block.skip, nn.Identity) == (outputs == 3 and not doubles)
        expected = torch.stack([_figure_7(block, frame, condition) for frame in x.unbind(1)], 1)
        torch.testing.assert_close(block(x, condition), expected)


def _attended(attention: SelfAttention, row: Tensor) -> Tensor:
    """softmax(XQ (XK)^T) XV, for one row [N, C], one position at a time."""
    q, k, v = (row @ layer.weight.T for layer in (attention.query, attention.key, attention.value))
    rows = []
    for one in q:
        weights = torch.exp(torch.stack([(one * other).sum() * attention.scale for other in k]))
        rows.append(sum(weight * value for weight, value in zip(weights / weights.sum(), v, strict=True)))
    return torch.stack(rows)  # type: ignore[arg-type]


def test_separable_attention_is_three_loops() -> None:
    x = _random(2, 3, 5, 4, 2)  # [B, T, C, H, W]
    for config in (AttentionConfig(1), AttentionConfig(1, scaled=True)):
        attention = SeparableAttention(config, 5).double()
        expected = x.detach().clone()
        for b in range(2):
            for h in range(4):
                for w in range(2):
                    expected[b, :, :, h, w] = _attended(attention.time, expected[b, :, :, h, w])
            for t in range(3):
                for w in range(2):
                    expected[b, t, :, :, w] = _attended(attention.height, expected[b, t, :, :, w].T).T
            for t in range(3):
                for h in range(4):
                    expected[b, t, :, h] = _attended(attention.width, expected[b, t, :, h].T).T
        torch.testing.assert_close(attention(x), expected)
        torch.testing.assert_close(attention(x[[1, 0]]), expected[[1, 0]])


def test_attention_with_a_residual_begins_as_the_identity() -> None:
    x, attention = _random(2, 3, 5, 4, 2), SeparableAttention(AttentionConfig(1, residual=True), 5).double()
    assert torch.equal(attention(x), x)
    nn.init.constant_(attention.gain, 0.5)
    plain = SeparableAttention(AttentionConfig(1), 5).double()
    plain.load_state_dict(attention.state_dict(), strict=False)
    torch.testing.assert_close(attention(x), x + 0.5 * plain(x))
