"""The convolutional GRU of DVD-GAN (appendix B.2), which alone carries anything from frame to frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvGRU(nn.Module):
    """Features of frames [B, T, C, h, w] and a state [B, C, h, w] -> the states after each frame [B, T, C, h, w].

    r = sigmoid(Wr * [h; x]), u = sigmoid(Wu * [h; x]), c = relu(Wc * [x; r h]), h' = u h + (1 - u) c, with 3 x 3
    convolutions and biases. What the convolutions make of x is computed for all frames at once.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reset, self.update, self.candidate = (nn.Conv2d(2 * channels, channels, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor, state: Tensor, frames: int) -> Tensor:
        """`x` may have T = 1, if it is the same for all `frames`."""
        channels = x.shape[2]
        reset, update, candidate = (layer.weight for layer in (self.reset, self.update, self.candidate))
        of_x = torch.cat([reset[:, channels:], update[:, channels:], candidate[:, :channels]])
        of_state = torch.cat([reset[:, :channels], update[:, :channels]])
        of_reset_state = candidate[:, channels:].contiguous()
        biases = [layer.bias for layer in (self.reset, self.update, self.candidate)]
        inputs = functional.conv2d(x.flatten(0, 1), of_x, torch.cat(biases), padding=1)  # type: ignore[arg-type]
        inputs = inputs.unflatten(0, x.shape[:2]).expand(-1, frames, -1, -1, -1)
        states = []
        for of_gates, of_candidate in zip(
            inputs[:, :, : 2 * channels].unbind(1), inputs[:, :, 2 * channels :].unbind(1), strict=True
        ):
            gates = torch.sigmoid(of_gates + functional.conv2d(state, of_state, padding=1))
            r, u = gates.chunk(2, 1)
            c = torch.relu(of_candidate + functional.conv2d(r * state, of_reset_state, padding=1))
            state = u * state + (1 - u) * c
            states.append(state)
        return torch.stack(states, 1)
