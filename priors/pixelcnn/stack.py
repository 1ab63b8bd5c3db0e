"""The gated PixelCNN of both priors: stacks over a volume of tokens in which each location depends on those before it.

Of a location's own step, a vertical stack covers the rows above and a horizontal stack what is left of the location in
its row; both cover what their filters reach of earlier steps (Gated PixelCNN, van den Oord et al. 2016, arXiv
1606.05328, with the time axis added as in Predicting Video with VQVAE, Walker et al. 2021, arXiv 2103.01950, section
3.2). Attention over all locations before, every few layers, covers what no filter reaches. It computes whole volumes;
`cached.py` computes the same a few locations at a time.

N volumes, t h w their steps, rows and columns, P = t h w locations in raster order, E width of a token's vector, D
width of the stacks, R output channels of their convolutions, C width of the condition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.layers.positions import sinusoids
from tokenreel.priors.layers.recompute import Recomputable
from tokenreel.priors.layers.transformer import Attention, dropout
from tokenreel.priors.pixelcnn.config import PixelCNNConfig
from tokenreel.priors.pixelcnn.masked import Box, BoxConvolution, Shape, boxes_before
from tokenreel.sample_random import SampleRandom

NOW = range(1)  # the offset of the location's own step, row or column


class Dropout(nn.Module):
    """Dropout in training, with masks from the random numbers that are passed along."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, random: SampleRandom | None) -> Tensor:
        return dropout(x, self.p, random) if self.training and self.p else x


class GatedLayer(nn.Module):
    """x + W gate(convolution(x) + V context), where gate(a, b) = tanh(a) sigmoid(b).

    The R outputs of the convolution are the paper's residual units. As in Gated PixelCNN half of them gate the other
    half, so table 4's 1024 are twice its 512 hidden units. Both stacks are residual, which 40 layers need.
    """

    def __init__(self, config: PixelCNNConfig, boxes: list[Box], context: int) -> None:
        super().__init__()
        self.convolution = BoxConvolution(config.hidden, config.residual, boxes)
        self.context = nn.Linear(context, config.residual, bias=False)
        self.out = nn.Linear(config.residual // 2, config.hidden)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, context: Tensor, random: SampleRandom | None) -> Tensor:
        gated = gate(self.convolution(x) + self.context(context))
        return x + self.out(self.dropout(gated, random))


class Layer(nn.Module):
    """One layer of both stacks; the horizontal one reads the output of the vertical one, never vice versa.

    With several steps the vertical filter is (k, k, 1) and the horizontal one (k, 1, k): the paper's planes (y, t) and
    (x, t). A volume of one step has the plain 2D filters (k, k) and (1, k).
    """

    def __init__(self, config: PixelCNNConfig, steps: int, attention: bool) -> None:
        super().__init__()
        k, half = config.kernel, config.kernel // 2
        across = range(-half, half + 1) if steps == 1 else NOW
        above = (NOW, range(-half, 1), across)  # the own row too: its vertical stack only depends on the rows above
        left = (NOW, NOW, range(-half, 1))
        width, condition = config.hidden, config.condition_hidden
        self.vertical = GatedLayer(config, [above, *boxes_before((k, k, 1), steps)], condition)
        self.horizontal = GatedLayer(config, [left, *boxes_before((k, 1, k), steps)], width + condition)
        self.norm = nn.LayerNorm(width) if attention else None
        self.attention = Attention(width, config.heads) if attention else None
        self.dropout = Dropout(config.dropout)

    def forward(
        self, v: Tensor, h: Tensor, condition: Tensor, previous_tokens: Tensor, random: SampleRandom | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both stacks [N, t, h, w, D]; `condition` [N, t, h, w, C], `previous_tokens` [N, P, D]: see `Stack`."""
        v = self.vertical(v, condition, random)
        h = self.horizontal(h, torch.cat([v, condition], -1), random)
        if self.attention is None or self.norm is None:
            return v, h
        mixed = self.attention(self.norm(h).flatten(1, 3) + previous_tokens).view_as(h)
        return v, h + self.dropout(mixed, random)


class Stack(Recomputable):
    """Token vectors [N, t, h, w, E] -> a vector for each location, [N, t, h, w, D], from those before it and the
    condition.

    Only the first layer is a 3D convolution. In attention each location adds the vector of the token just before it, so
    that every earlier token has an effect, even in the blind spot of the stacks. That is, in the same step, what is up
    and to the right by more columns than the first filter covers; in earlier steps, what is later in raster order by
    more than the filters of the steps between cover, which the planes (y, t) and (x, t) leave out.
    """

    position_embedding: Tensor  # [P, D]

    def __init__(self, config: PixelCNNConfig, shape: Shape) -> None:
        super().__init__()
        self.shape, self.condition_width = shape, config.condition_hidden
        k, half = config.kernel, config.kernel // 2
        above = (NOW, range(-half, 0), range(-half, half + 1))
        before = boxes_before((k, k, k), shape[0])
        self.first = BoxConvolution(config.embedding, config.hidden, [above, *before])
        self.first_left = BoxConvolution(config.embedding, config.hidden, [(NOW, NOW, range(-half, 0))], bias=False)
        with_attention = (i % config.attention_every == 0 for i in range(1, config.layers + 1))
        self.layers = nn.ModuleList(Layer(config, shape[0], attention) for attention in with_attention)
        self.previous_token = nn.Linear(config.embedding, config.hidden, bias=False)
        self.register_buffer("position_embedding", sinusoids(shape, config.hidden), persistent=False)
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, vectors: Tensor, condition: Tensor, random: SampleRandom | None = None) -> Tensor:
        """`random` has the dropout masks of training."""
        v = self.first(vectors)
        h = v + self.first_left(vectors)
        shifted = F.pad(vectors.flatten(1, 3)[:, :-1], (0, 0, 1, 0))
        previous_tokens = self.previous_token(shifted) + self.position_embedding
        for layer in self.layers:
            v, h = self.run_block(layer, v, h, condition, previous_tokens, random=random)
        return self.norm(h)

    def reset_parameters(self) -> None:
        """Normal weights that keep the scale of the input; residual outputs are scaled down by the number of layers."""
        for module in self.modules():
            if isinstance(module, BoxConvolution):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, GatedLayer | Attention):
                    module.out.weight.mul_((2 * len(self.layers)) ** -0.5)


def gate(x: Tensor) -> Tensor:
    """tanh(a) sigmoid(b) of the halves a, b of x: [..., R] -> [..., R / 2]."""
    a, b = x.chunk(2, -1)
    return a.tanh() * b.sigmoid()
