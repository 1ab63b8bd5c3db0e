"""Gated stacks over a volume of codes, each place seeing those before it: the PixelCNN of both priors.

Of the place's own step a vertical stack sees the rows above and a horizontal one what is left of the place in its row;
both see all that their filters reach of earlier steps (Gated PixelCNN, van den Oord et al. 2016, arXiv 1606.05328, with
the time axis added as in Predicting Video with VQVAE, Walker et al. 2021, arXiv 2103.01950, section 3.2). Attention
over all places before, every few layers, reaches what no filter does. It computes whole volumes;
`priors/pixelcnn/cached.py` computes the same a few places at a time. Knows vectors and places, no codes.

N volumes, t h w their steps, rows and columns, P = t h w places in raster order, E width of a code's vector, D width of
the stacks, R what a convolution gives, C width of the condition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.layers.positions import sinusoids
from tokenreel.priors.layers.transformer import Attention, drop
from tokenreel.priors.pixelcnn.config import PixelCNNConfig
from tokenreel.priors.pixelcnn.masked import Box, BoxConvolution, Shape, boxes_before

NOW = range(1)  # the offset of the place's own step, row or column


class Dropout(nn.Module):
    """Drops a share of x in training, drawn from the generator that comes with it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return drop(x, self.share, generator) if self.training and self.share else x


class GatedLayer(nn.Module):
    """x + W gate(convolution(x) + V context), where gate(a, b) = tanh(a) sigmoid(b).

    Here the R outputs of the convolution are the paper's residual units: as in Gated PixelCNN half of them gate the
    other half, so table 4's 1024 are twice its 512 hidden units. Both stacks are residual, as 40 layers want.
    """

    def __init__(self, config: PixelCNNConfig, boxes: list[Box], context: int) -> None:
        super().__init__()
        self.convolution = BoxConvolution(config.hidden, config.residual, boxes)
        self.context = nn.Linear(context, config.residual, bias=False)
        self.out = nn.Linear(config.residual // 2, config.hidden)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, context: Tensor, generator: torch.Generator | None) -> Tensor:
        gated = gate(self.convolution(x) + self.context(context))
        return x + self.out(self.dropout(gated, generator))


class Layer(nn.Module):
    """One layer of both stacks; the horizontal one reads what the vertical one made, never the other way round.

    With several steps the vertical filter is (k, k, 1) and the horizontal one (k, 1, k): the paper's planes (y, t) and
    (x, t). A volume of one step has the plain 2D filters (k, k) and (1, k).
    """

    def __init__(self, config: PixelCNNConfig, steps: int, attention: bool) -> None:
        super().__init__()
        k, half = config.kernel, config.kernel // 2
        across = range(-half, half + 1) if steps == 1 else NOW
        above = (NOW, range(-half, 1), across)  # the place's own row counts: its vertical stack has only seen above it
        left = (NOW, NOW, range(-half, 1))
        width, condition = config.hidden, config.condition_hidden
        self.vertical = GatedLayer(config, [above, *boxes_before((k, k, 1), steps)], condition)
        self.horizontal = GatedLayer(config, [left, *boxes_before((k, 1, k), steps)], width + condition)
        self.norm = nn.LayerNorm(width) if attention else None
        self.attention = Attention(width, config.heads) if attention else None
        self.dropout = Dropout(config.dropout)

    def forward(
        self, v: Tensor, h: Tensor, condition: Tensor, words: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Both stacks [N, t, h, w, D], `condition` [N, t, h, w, C], `words` [N, P, D] as `Stack.words` gives them."""
        v = self.vertical(v, condition, generator)
        h = self.horizontal(h, torch.cat([v, condition], -1), generator)
        if self.attention is None or self.norm is None:
            return v, h
        mixed = self.attention(self.norm(h).flatten(1, 3) + words).view_as(h)
        return v, h + self.dropout(mixed, generator)


class Stack(nn.Module):
    """Vectors of codes [N, t, h, w, E] -> [N, t, h, w, D] of each place, from the codes before it and the condition.

    The first layer is the one true 3D convolution. A place attends to those before it with the vector of the code just
    before each: so every code before is seen, even where the stacks have a blind spot. Theirs is what lies up and to
    the right by more columns than the first filter reaches, and in earlier steps what is later in raster order by more
    than the filters of the steps between reach: planes (y, t) and (x, t) leave that out.
    """

    positions: Tensor  # [P, D]

    def __init__(self, config: PixelCNNConfig, shape: Shape) -> None:
        super().__init__()
        self.shape, self.condition_width = shape, config.condition_hidden
        k, half = config.kernel, config.kernel // 2
        above = (NOW, range(-half, 0), range(-half, half + 1))
        before = boxes_before((k, k, k), shape[0])
        self.first = BoxConvolution(config.embedding, config.hidden, [above, *before])
        self.first_left = BoxConvolution(config.embedding, config.hidden, [(NOW, NOW, range(-half, 0))], bias=False)
        every = config.attention_every
        self.layers = nn.ModuleList(Layer(config, shape[0], not i % every) for i in range(1, config.layers + 1))
        self.word = nn.Linear(config.embedding, config.hidden, bias=False)
        self.register_buffer("positions", sinusoids(shape, config.hidden), persistent=False)
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, vectors: Tensor, condition: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`generator` draws what is dropped in training; torch's own where left out."""
        v = self.first(vectors)
        h = v + self.first_left(vectors)
        words = self.word(F.pad(vectors.flatten(1, 3)[:, :-1], (0, 0, 1, 0))) + self.positions
        for layer in self.layers:
            v, h = layer(v, h, condition, words, generator)
        return self.norm(h)

    def reset_parameters(self) -> None:
        """Normal, so that what comes out has the size of what goes in; what is added, by the number of layers less."""
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
    """[..., R] -> [..., R / 2]"""
    a, b = x.chunk(2, -1)
    return a.tanh() * b.sigmoid()
