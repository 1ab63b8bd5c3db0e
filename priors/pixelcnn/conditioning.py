"""The conditioning networks of the two PixelCNN priors: tables 5 and 6 of Predicting Video with VQVAE.

They map tokens to a volume of vectors, one for each location to be predicted.

B rows, g given steps of the top level, t h w its steps, rows and columns (the bottom level has twice as many of each),
C width of the condition.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.pixelcnn.config import PixelCNNConfig

PAST = 4  # bottom slices before the predicted one that condition it: table 6
_WINDOW = 4  # top steps that the upsampled slice depends on: those that the filters reach from a bottom slice


class Conditioning(nn.Module):
    """Base class of both: convolutions and residual blocks."""

    def reset_parameters(self) -> None:
        """Normal weights that keep the scale of the input after each ReLU (He et al. 2015, arXiv 1502.01852); the
        outputs of residual blocks are scaled down by the root of their number.
        """
        blocks = [module for module in self.modules() if isinstance(module, ResidualBlock)]
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                fan_in = module.in_channels * module.weight[0, 0].numel()
                if isinstance(module, nn.ConvTranspose3d):
                    fan_in //= math.prod(module.stride)  # only so many of its taps contribute to an output
                nn.init.normal_(module.weight, std=(2 / fan_in) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for block in blocks:
                block.out.weight.mul_(len(blocks) ** -0.5)


class ResidualBlock(nn.Module):
    """x + two convolutions with `residual` channels between them; volumes [B, C, t, h, w]."""

    def __init__(self, width: int, residual: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.inner = nn.Conv3d(width, residual, kernel, padding="same")
        self.out = nn.Conv3d(residual, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.relu(self.inner(F.relu(x))))


def _blocks(config: PixelCNNConfig, kernel: tuple[int, int, int]) -> nn.Sequential:
    width, residual = config.condition_hidden, config.condition_residual
    return nn.Sequential(*(ResidualBlock(width, residual, kernel) for _ in range(config.condition_blocks)))


class TopConditioning(Conditioning):
    """The tokens of the given frames -> [B, steps, h, w, C], table 5.

    The top tokens are upsampled to the bottom's grid and concatenated with the bottom's; both are downsampled to the
    top's grid with C / 2 channels, tiled over the steps to be predicted, and passed through one more convolution and
    the residual blocks. The paper does not say: filters have size 4 at stride 2, as in its tokenizer, and 3 elsewhere;
    where more than its one top step is given, all are concatenated before tiling.
    """

    def __init__(self, config: PixelCNNConfig, vocabulary: tuple[int, int], given: int, steps: int) -> None:
        super().__init__()
        width, hidden = config.embedding, config.condition_hidden
        self.steps = steps
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in vocabulary)  # top, bottom
        self.up = nn.ConvTranspose3d(width, width, 4, stride=2, padding=1)
        self.down = nn.Conv3d(2 * width, hidden // 2, 4, stride=2, padding=1)
        self.project_in = nn.Conv3d(given * (hidden // 2), hidden, 3, padding=1)
        self.blocks = _blocks(config, (3, 3, 3))

    def forward(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Tokens of the given frames alone: `top` [B, g, h, w], `bottom` [B, 2 g, 2 h, 2 w]."""
        coarse, fine = (
            embed(indices).movedim(-1, 1) for embed, indices in zip(self.embeddings, (top, bottom), strict=True)
        )
        given = F.relu(self.down(torch.cat([self.up(coarse), fine], 1))).flatten(1, 2)  # [B, C / 2 g, h, w]
        tiled = given[:, :, None].expand(-1, -1, self.steps, -1, -1)
        return self.blocks(self.project_in(tiled)).movedim(1, -1)


class BottomConditioning(Conditioning):
    """Top tokens and past bottom slices -> [B, 1, 2 h, 2 w, C] for one bottom slice, table 6.

    The top level is upsampled and the slice taken from it; the four slices before go through four convolutions, the
    first two of which halve their number. Both are concatenated and passed through residual blocks of 2D filters (the
    stack of VQ-VAE-2, Razavi et al. 2019, arXiv 1906.00446). Outside of the clip is zero padding.

    How we read the paper: the text's windows of "4 and 2" are the four top steps that the filters reach from a slice,
    and two steps of the top level, which are table 6's four bottom slices. In the last two convolutions all but one of
    the four taps in time would cover padding, so they have that one only. Upsampling "(2, 4, 4)" is the tokenizer's.
    """

    def __init__(self, config: PixelCNNConfig, vocabulary: tuple[int, int], top_steps: int) -> None:
        super().__init__()
        width, hidden = config.embedding, config.condition_hidden
        self.top_steps = top_steps
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in vocabulary)  # top, bottom
        # unpadded in time: `_upsampled` selects the steps
        self.double_steps = nn.ConvTranspose3d(width, hidden, (4, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1))
        self.double_size = nn.ConvTranspose3d(hidden, hidden, (3, 4, 4), stride=(1, 2, 2), padding=(2, 1, 1))
        self.smooth = nn.Conv3d(hidden, hidden, (3, 3, 3), padding=(0, 1, 1))
        self.halve = nn.ModuleList(
            nn.Conv3d(inputs, hidden, (4, 3, 3), stride=(2, 1, 1), padding=1) for inputs in (width, hidden)
        )
        self.keep = nn.ModuleList(nn.Conv3d(hidden, hidden, (1, 3, 3), padding=(0, 1, 1)) for _ in range(2))
        self.join = nn.Conv3d(2 * hidden, hidden, 1)
        self.blocks = _blocks(config, (1, 3, 3))

    def forward(self, top: Tensor, bottom: Tensor, index: Tensor) -> Tensor:
        """Tokens `top` [B, t, h, w] and `bottom` [B, 2 t, 2 h, 2 w], for bottom slice `index` [B].

        Of `bottom` only the four slices before `index` are read.
        """
        joined = torch.cat([F.relu(self._upsampled(top, index)), F.relu(self._past(bottom, index))], 1)
        return self.blocks(self.join(joined)).movedim(1, -1)

    def _upsampled(self, top: Tensor, index: Tensor) -> Tensor:
        """Slice `index` of the upsampled top level, [B, C, 1, 2 h, 2 w], computed from the steps that it depends on."""
        first = (index - 3).div(2, rounding_mode="floor")  # the first of these steps
        x = self.double_steps(_slices(self.embeddings[0](top), first, _WINDOW).movedim(-1, 1))
        x = _slices(F.relu(x).movedim(1, -1), index - 2 * first - 1, 5)  # index - 2 to index + 2
        x = self.double_size(self._in_clip(x, index - 2).movedim(-1, 1))
        return self.smooth(self._in_clip(F.relu(x).movedim(1, -1), index - 1).movedim(-1, 1))

    def _in_clip(self, x: Tensor, first: Tensor) -> Tensor:
        """x [B, n, h, w, C], the slices from `first` [B] on, with zeros for those outside of the clip."""
        return _zero_outside(x, first, 2 * self.top_steps)

    def _past(self, bottom: Tensor, index: Tensor) -> Tensor:
        """The features of the four slices before `index`, [B, C, 1, 2 h, 2 w]."""
        x = _slices(self.embeddings[1](bottom), index - PAST, PAST).movedim(-1, 1)
        for number, layer in enumerate([*self.halve, *self.keep]):
            x = layer(F.relu(x) if number else x)
        return x


def _slices(x: Tensor, first: Tensor, count: int) -> Tensor:
    """x [B, t, ...] -> [B, count, ...]: the steps of each row from `first` [B] on; zero outside of x."""
    index = first[:, None] + torch.arange(count, device=x.device)
    rows = torch.arange(len(x), device=x.device)[:, None]
    return _zero_outside(x[rows, index.clamp(0, x.shape[1] - 1)], first, x.shape[1])


def _zero_outside(x: Tensor, first: Tensor, steps: int) -> Tensor:
    """x [B, n, h, w, D], the steps from `first` [B] on; zero where a step is below 0 or not below `steps`."""
    step = first[:, None] + torch.arange(x.shape[1], device=x.device)
    return x * ((step >= 0) & (step < steps))[..., None, None, None]
