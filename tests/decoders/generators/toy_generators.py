"""A generator and discriminators as small as the contract allows, and broken ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import Adversary, VideoGenerator
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.layers.batch_norm import BatchNorm
from tokenreel.decoders.losses.adversarial import adversarial_loss, discriminator_loss
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom

WIDTH = 13


@dataclass(frozen=True)
class ToyAdversaryConfig:
    width: int = WIDTH


class ToyAdversary(Adversary):
    config_class = ToyAdversaryConfig

    def __init__(self, config: ToyAdversaryConfig, spec: GeneratorSpec) -> None:
        super().__init__(config, spec)
        pixels = spec.channels * spec.frames * spec.framing.height * spec.framing.width
        self.score = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, config.width), nn.LeakyReLU(), nn.Linear(config.width, 1)
        )

    def discriminator_losses(
        self, real: Tensor, fake: Tensor, conditions: Conditions, random: SampleRandom
    ) -> dict[str, Tensor]:
        return {"logistic": discriminator_loss(self._scores(real, random), self._scores(fake, random))}

    def generator_losses(self, fake: Tensor, conditions: Conditions, random: SampleRandom) -> dict[str, Tensor]:
        return {"adversarial": adversarial_loss(self._scores(fake, random))}

    def _scores(self, video: Tensor, random: SampleRandom) -> Tensor:
        """Of the video with frames weighted at random."""
        scores: Tensor = self.score(video * random.rand(1, video.shape[2], 1, 1))
        return scores


@dataclass(frozen=True)
class ToyGeneratorConfig:
    type: str = "toy"
    class_conditional: bool = False
    noise: int = 7
    given_frames: int = 0
    end_frame: bool = False
    channels: int = 3
    fault: str = ""


class ToyGenerator(VideoGenerator):
    """A linear map of noise and the means of the conditions, a norm over the batch, and a linear map to pixels."""

    config_class = ToyGeneratorConfig
    adversary_class = ToyAdversary

    def __init__(self, config: ToyGeneratorConfig, frames: int, framing: Framing, classes: tuple[str, ...]) -> None:
        if framing.height % 2:
            raise ConfigError(f"framing.height (={framing.height}) must be even")
        spec = GeneratorSpec(
            frames,
            framing,
            config.noise,
            given_frames=config.given_frames,
            end_frame=config.end_frame,
            classes=classes,
            channels=config.channels,  # type: ignore[arg-type]
        )
        super().__init__(config, spec)
        inputs = config.noise + config.given_frames + config.end_frame + len(classes)
        self.hidden = nn.Linear(inputs, WIDTH, bias=False)  # a norm follows
        self.norm = BatchNorm(WIDTH)
        shape = (spec.channels, spec.generated_frames, framing.height, framing.width)
        self.pixels = nn.Sequential(nn.Linear(WIDTH, torch.Size(shape).numel()), nn.Unflatten(1, shape), nn.Tanh())

    def forward(self, noise: Tensor, conditions: Conditions) -> Tensor:
        parts = [noise]
        if conditions.given is not None:
            parts.append(conditions.given.mean((1, 3, 4)))
        if conditions.end is not None:
            parts.append(conditions.end.mean((1, 2, 3))[:, None])
        if conditions.classes is not None:
            parts.append(conditions.classes)
        if self.config.fault == "class ignored" and conditions.classes is not None:
            parts[-1] = torch.zeros_like(parts[-1])
        hidden = self.hidden(torch.cat(parts, 1))
        if self.config.fault == "batch statistics":
            hidden = hidden - hidden.mean(0)
        video = self.pixels(self.norm(hidden))
        frames = [video]
        if conditions.given is not None:
            frames.insert(0, self.own_channels(conditions.given))
        if conditions.end is not None:
            frames.append(self.own_channels(conditions.end)[:, :, None])
        return torch.cat(frames, 2)

    def set_statistics(self, batches: Iterable[tuple[Tensor, Conditions]]) -> None:
        self.norm.train()
        for number, (noise, conditions) in enumerate(batches, 1):
            self.norm.momentum = 1 / number  # the mean over batches
            self(noise, conditions)
