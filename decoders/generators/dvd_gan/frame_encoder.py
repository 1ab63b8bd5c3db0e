"""What the generator of DVD-GAN-FP sees of the given frames (appendix B.4): the first states of its GRUs."""

from __future__ import annotations

from torch import Tensor, nn

from tokenreel.decoders.generators.dvd_gan.config import DVDGANConfig
from tokenreel.decoders.generators.dvd_gan.discriminators import frame_blocks


class FrameEncoder(nn.Module):
    """Given frames [B, 3, n, H, W] -> the first state of each group's GRU [B, C, h, w], from 4 x 4 up.

    Each frame passes blocks like those of the spatial discriminator; after each, the features of all n frames together
    make the state on the same grid, so that the finest go to the last group. Of the two blocks that end at 4 x 4, a
    generator with one group on that grid uses the last one.
    """

    def __init__(self, config: DVDGANConfig) -> None:
        super().__init__()
        self.blocks = frame_blocks(config.given_widths)
        last = len(self.blocks) - 1
        self.sources = [last, *range(last - (len(config.groups) == last) - 1, -1, -1)]  # the block of each group
        self.states = nn.ModuleList(
            nn.Conv2d(config.given_frames * config.given_widths[source], inputs, 3, padding=1)
            for source, (inputs, _, _) in zip(self.sources, config.groups, strict=True)
        )

    def forward(self, given: Tensor) -> list[Tensor]:
        frames = given.transpose(1, 2)
        x, features = frames.flatten(0, 1), []
        for block in self.blocks:
            x = block(x)
            features.append(x.unflatten(0, frames.shape[:2]).flatten(1, 2))  # [B, n C, h, w]
        return [state(features[source]).relu() for source, state in zip(self.sources, self.states, strict=True)]
