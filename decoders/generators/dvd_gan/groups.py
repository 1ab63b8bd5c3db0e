"""Groups of DVD-GAN's generator: a convolutional GRU over time, then two residual blocks on each frame (figure 7)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from tokenreel.decoders.generators.dvd_gan.attention import SeparableAttention
from tokenreel.decoders.generators.dvd_gan.gru import ConvGRU
from tokenreel.decoders.generators.dvd_gan.normalisation import ConditionalNorm

NewNorm = Callable[[int], ConditionalNorm]  # of so many channels


class GeneratorBlock(nn.Module):
    """BigGAN's residual block: [B, T, C, h, w], [B, D] -> [B, T, C', h', w'], h' = 2 h if it doubles."""

    def __init__(self, inputs: int, outputs: int, doubles: bool, new_norm: NewNorm) -> None:
        super().__init__()
        self.doubles = doubles
        self.first_norm = new_norm(inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second_norm = new_norm(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if doubles or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        inner = self._resize(self.first_norm(x, condition).relu().flatten(0, 1))
        inner = self.first(inner).unflatten(0, x.shape[:2])
        inner = self.second(self.second_norm(inner, condition).relu().flatten(0, 1))
        skip = self._resize(self.skip(x.flatten(0, 1)))  # a 1 x 1 convolution is the same before and after
        return (inner + skip).unflatten(0, x.shape[:2])

    def _resize(self, frames: Tensor) -> Tensor:
        return functional.interpolate(frames, scale_factor=2, mode="nearest") if self.doubles else frames


class Group(nn.Module):
    """[B, T, C, h, w], the state of the GRU [B, C, h, w] and conditions [B, D] -> [B, T, C', h', w']."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        doubles: bool,
        frames: int,
        new_norm: NewNorm,
        attention: SeparableAttention | None,
    ) -> None:
        super().__init__()
        self.frames = frames
        self.gru = ConvGRU(inputs)
        self.keep = GeneratorBlock(inputs, inputs, False, new_norm)
        self.change = GeneratorBlock(inputs, outputs, doubles, new_norm)
        self.attention = attention

    def forward(self, x: Tensor, state: Tensor, condition: Tensor) -> Tensor:
        """`x` may have T = 1, if it is the same for all frames."""
        x = self.gru(x, state, self.frames)
        x = self.change(self.keep(x, condition), condition)
        return x if self.attention is None else self.attention(x)
