"""The top and the bottom prior of Predicting Video with VQVAE (Walker et al. 2021, arXiv 2103.01950, section 3.2).

Of the given frames both read only the tokens of these frames encoded alone: in training and in sampling these replace
the first steps of a level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreel.data.spec import TokenSpec
from tokenreel.priors.layers.sliced import ClipTokens
from tokenreel.priors.pixelcnn.conditioning import BottomConditioning, TopConditioning
from tokenreel.priors.pixelcnn.config import BottomPixelCNNConfig, TopPixelCNNConfig
from tokenreel.priors.pixelcnn.prior import PixelCNN
from tokenreel.priors.pixelcnn.streams import required_levels


class TopPixelCNN(PixelCNN):
    """p(top token | top tokens before it, the given frames): one volume of all steps that are not given."""

    config_class = TopPixelCNNConfig

    def __init__(self, config: TopPixelCNNConfig, spec: TokenSpec) -> None:
        top, bottom = required_levels(spec)
        given = top.given.grid[0]
        steps = top.stream.grid[0] - given
        super().__init__(config, spec, top.stream, (top.given.name, bottom.given.name), given, steps)
        sizes = (top.vocabulary_size, bottom.vocabulary_size)
        self.conditioning = TopConditioning(config, sizes, given, steps)
        self.reset_parameters()

    def condition(self, clips: ClipTokens, index: Tensor) -> Tensor:
        return self.conditioning(clips.read["top_given"][..., 0], clips.read["bottom_given"][..., 0])


class BottomPixelCNN(PixelCNN):
    """p(bottom token | those before it in its slice, all top tokens, the four slices before): a volume is one step."""

    config_class = BottomPixelCNNConfig

    def __init__(self, config: BottomPixelCNNConfig, spec: TokenSpec) -> None:
        top, bottom = required_levels(spec)
        reads = (top.stream.name, top.given.name, bottom.given.name)
        super().__init__(config, spec, bottom.stream, reads, bottom.given.grid[0], steps=1)
        sizes = (top.vocabulary_size, bottom.vocabulary_size)
        self.conditioning = BottomConditioning(config, sizes, top.stream.grid[0])
        self.reset_parameters()

    def condition(self, clips: ClipTokens, index: Tensor) -> Tensor:
        top, top_given, bottom_given = (clips.read[name][..., 0] for name in self.reads)
        top = torch.cat([top_given, top[:, top_given.shape[1] :]], 1)
        bottom = torch.cat([bottom_given, clips.indices.unflatten(2, self.shape[1:])], 1)
        return self.conditioning(top, bottom, index + bottom_given.shape[1])
