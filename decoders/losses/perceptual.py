"""Perceptual losses: the distance between two frames in the features of a fixed network (CCVS equation 4).

The networks are stacks of convolutions named as in torchvision's VGG, so that its published weights fit;
`perceptual_weights.py` loads and checks weights. The networks are neither trained nor saved with a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# (channels, convolutions) of each block; 2x2 max pooling between blocks
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # Simonyan and Zisserman 2015, configuration D
TABLETOP = ((16, 2), (32, 2), (64, 2))  # small, trained on Tabletop by benchmarks/papers/ccvs/
# Weight of each block's features, fine to coarse, as in the public code of CCVS.
BLOCK_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
# Normalization of torchvision's weights, for pixels in [0, 1]. The public code of CCVS omits it.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualNetwork(nn.Module):
    """[N, 3, H, W] in [-1, 1] -> the features of each block after its last ReLU, fine to coarse.

    For VGG-16 these are relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3. (CCVS says "a VGG net"; its public code takes
    the first ReLU of each block of VGG-19.)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.outputs: list[int] = []  # indices of the last ReLUs
        channels = 3
        for number, (width, convs) in enumerate(blocks):
            layers += [nn.MaxPool2d(2)] if number else []
            for _ in range(convs):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.outputs.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> list[Tensor]:
        x = ((frames + 1) / 2 - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)  # 1.2 times as fast on CPU
        features = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.outputs:
                features.append(x)
        return features


def perceptual_loss(network: PerceptualNetwork, decoded: Tensor, true: Tensor) -> Tensor:
    """Weighted sum over blocks of the mean absolute difference of features, for frames [N, 3, H, W] in [-1, 1]."""
    with torch.no_grad():
        targets = network(true)
    differences = [functional.l1_loss(a.float(), b.float()) for a, b in zip(network(decoded), targets, strict=True)]
    weights = BLOCK_WEIGHTS[-len(differences) :]
    return torch.stack([weight * difference for weight, difference in zip(weights, differences, strict=True)]).sum()
