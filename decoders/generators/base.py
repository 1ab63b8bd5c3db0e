"""Base classes of generators of pixels and of the discriminators that they are trained against.

A generator makes a clip at once, of noise and conditions, without tokens.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tokenreel.config import from_mapping, load_preset, to_mapping
from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.errors import ConfigError, shown
from tokenreel.hub import PretrainedModel
from tokenreel.registry import Registry
from tokenreel.sample_random import SampleRandom

GENERATORS: Registry[VideoGenerator] = Registry(
    "generator",
    {
        "dvd-gan": "tokenreel.decoders.generators.dvd_gan.generator:DVDGAN",
        "inbetweening": "tokenreel.decoders.generators.inbetweening.generator:Inbetweening",
    },
    base="tokenreel.decoders.generators.base:VideoGenerator",
)


class VideoGenerator(nn.Module, PretrainedModel):
    """Base class of generators. A subclass sets `config_class` and `adversary_class`, builds its `spec`, and implements
    `forward`; it is constructed as `Subclass(config, frames, framing, classes)`.

    In evaluation mode a clip depends on its own noise and conditions alone, and not on the others of its batch.
    """

    kind: ClassVar[str] = "generator"
    config_class: ClassVar[type[Any]]
    adversary_class: ClassVar[type[Adversary]]

    spec: GeneratorSpec

    def __init__(self, config: Any, spec: GeneratorSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @abstractmethod
    def forward(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """Noise [B, D] -> clips [B, c, T, H, W] in [-1, 1], c = `spec.channels`, as discriminators see them: the given
        frames and the end frame are in them as they are.
        """

    @torch.no_grad()
    def generate(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """Noise [B, D] -> clips [B, 3, T, H, W] in [-1, 1]; given frames and the end frame come out bit for bit.

        Raises ConfigError where noise or conditions are not those of the spec.
        """
        if noise.ndim != 2 or noise.shape[1] != self.spec.noise:
            raise ConfigError(f"noise (shape {tuple(noise.shape)}) must be [B, {self.spec.noise}] for this generator")
        conditions.require(self.spec, len(noise))
        video = self(noise, conditions).expand(-1, 3, -1, -1, -1).clone()
        if conditions.given is not None:  # also where channels are grey inside
            video[:, :, : self.spec.given_frames] = conditions.given
        if conditions.end is not None:
            video[:, :, -1] = conditions.end
        return video

    def own_channels(self, video: Tensor) -> Tensor:
        """[B, 3, ...] -> [B, c, ...]: the mean of the channels where the generator is grey inside."""
        return video if self.spec.channels == 3 else video.mean(1, keepdim=True)

    def for_export(self) -> Self:
        """A copy in evaluation mode, without what only training needs, such as spectral normalisation."""
        return copy.deepcopy(self).eval()

    def load_exported(self, exported: VideoGenerator) -> None:
        """The inverse of `for_export`: takes the weights of an exported generator with the same layers, also for layers
        that torch's parametrizations normalise here.
        """
        own = self.state_dict()
        for name, tensor in exported.state_dict().items():
            layer, dot, weight = name.rpartition(".")
            own[name if name in own else f"{layer}{dot}parametrizations.{weight}.original"] = tensor
        self.load_state_dict(own)

    def set_statistics(self, batches: Iterable[tuple[Tensor, Conditions]]) -> None:
        """Recomputes statistics of normalisation layers from batches of noise and conditions, if any are needed
        (the standing statistics of BigGAN).
        """

    def new_adversary(self, section: Mapping[str, Any]) -> Adversary:
        """The discriminators of a `discriminators:` section. Raises ConfigError where they do not fit the clips."""
        config = from_mapping(self.adversary_class.config_class, section, "discriminators")
        return self.adversary_class(config, self.spec)

    @property
    def device(self) -> torch.device:
        """The device that the generator computes on; noise and conditions must be there too."""
        return next(self.parameters()).device

    def extra_repr(self) -> str:
        """The line that torch prints above the layers."""
        return f"{self.config.type}: {self.spec.summary}; {sum(p.numel() for p in self.parameters()):,} parameters"

    def to_document(self) -> dict[str, Any]:
        return {"config": to_mapping(self.config), "spec": self.spec.to_json()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        spec = GeneratorSpec.from_json(document["spec"])
        generator = build_generator(document["config"], spec.frames, spec.framing, spec.classes).for_export()
        if generator.spec != spec:
            raise ConfigError(f"spec: the configuration results in {shown(generator.spec)}, the file has {shown(spec)}")
        return cls.require_own(generator)

    @classmethod
    def from_preset(cls, name: str, classes: tuple[str, ...] = ()) -> Self:
        """An untrained generator of the preset; `classes` are those of the data, for a class-conditional one.

        Raises ConfigError for an unknown preset or a missing section.
        """
        preset = load_preset(name)
        for section in ("generator", "data"):
            if section not in preset:
                raise ConfigError(f"preset {name!r} has no section {section!r}; it has: {', '.join(preset)}")
        framing = from_mapping(Framing, preset["data"]["framing"], "data.framing")
        return cls.require_own(build_generator(preset["generator"], preset["data"]["frames"], framing, classes))


class Adversary(nn.Module):
    """The discriminators of a system, and the losses of both sides. A subclass sets `config_class`.

    Its losses are means over the batch. Random numbers come from `random`, which has some for each clip. Clips are as
    the generator's `forward` makes them, true ones with the same channels.
    """

    config_class: ClassVar[type[Any]]

    def __init__(self, config: Any, spec: GeneratorSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @abstractmethod
    def discriminator_losses(
        self, real: Tensor, fake: Tensor, conditions: Conditions, random: SampleRandom
    ) -> dict[str, Tensor]:
        """Scalars by name, whose sum the discriminators minimise, of true and generated clips [B, c, T, H, W].
        `fake` is detached.
        """

    @abstractmethod
    def generator_losses(self, fake: Tensor, conditions: Conditions, random: SampleRandom) -> dict[str, Tensor]:
        """Scalars by name, whose sum the generator minimises, of generated clips [B, c, T, H, W]."""


def build_generator(
    section: Mapping[str, Any], frames: int, framing: Framing, classes: tuple[str, ...] = ()
) -> VideoGenerator:
    """The registered generator of a `generator:` section, for clips of `frames` frames with this framing."""
    config = GENERATORS.config(section, "generator")
    member: Callable[..., VideoGenerator] = GENERATORS.member(config.type)
    return member(config, frames, framing, classes)
