"""Base class of video tokenizers: pixels -> named streams of tokens -> pixels, with a spec that priors rely on."""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tokenreel.config import from_mapping, load_preset, to_mapping
from tokenreel.data.spec import Framing, TokenSpec
from tokenreel.errors import ConfigError, shown
from tokenreel.hub import PretrainedModel, fingerprint
from tokenreel.registry import Registry
from tokenreel.sample_random import SampleRandom
from tokenreel.tokenizers.quantizers.base import QuantizerConfig

Tokens = dict[str, Tensor]  # stream name -> integer tokens [B, t, h, w, q]

TOKENIZERS: Registry[VideoTokenizer] = Registry(
    "tokenizer",
    {
        "context-autoencoder": "tokenreel.tokenizers.context_autoencoder:ContextAutoencoder",
        "frame-vqvae": "tokenreel.tokenizers.frame_vqvae:FrameVQVAE",
        "hierarchical-vqvae": "tokenreel.tokenizers.hierarchical_vqvae:HierarchicalVQVAE",
    },
    base="tokenreel.tokenizers.base:VideoTokenizer",
)


@dataclass
class Reconstruction:
    """Output of the training pass of a tokenizer."""

    video: Tensor  # [B, C, T, H, W]; clamped to [-1, 1] it equals `decode` of the same tokens
    losses: dict[str, Tensor]  # scalars by name; training minimises their sum
    code_counts: dict[str, Tensor] = field(default_factory=dict)  # stream -> [q, K], how often each code was chosen
    # Decoded and true pixels for discriminators and perceptual networks; None: all frames of `video`, and `video`.
    judged_frames: tuple[Tensor, Tensor] | None = None  # [N, 3, H, W] each
    judged_clips: tuple[Tensor, Tensor] | None = None  # [B, 3, n, H, W] each, of consecutive frames


class VideoTokenizer(nn.Module, PretrainedModel):
    """Base class of tokenizers. A subclass sets `config_class`, builds its `spec`, and implements the three abstract
    methods; it is constructed as `Subclass(config, frames, framing)`.

    The code fingerprint covers every tensor and every setting that is not listed as decode-only: in
    `decode_only_modules`, and in the class variable `decode_only_settings` of `config_class`. Token caches stay valid
    when what is listed changes; list nothing that `encode` uses.
    """

    kind: ClassVar[str] = "tokenizer"
    config_class: ClassVar[type[Any]]
    decode_only_modules: ClassVar[tuple[str, ...]] = ()  # submodules and tensors unused by `encode`

    spec: TokenSpec

    def __init__(self, config: Any, spec: TokenSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @property
    def device(self) -> torch.device:
        """The device that the tokenizer computes on; its videos and tokens must be there too."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @abstractmethod
    def encode(self, video: Tensor) -> Tokens:
        """float [B, C, T, H, W] in [-1, 1] -> tokens by stream. T must fill complete code steps."""

    @abstractmethod
    def decode(self, tokens: Mapping[str, Tensor], context_buffer: Any = None) -> Tensor:
        """Tokens by stream -> float [B, C, T, H, W] in [-1, 1]. `context_buffer`: see `new_context_buffer`."""

    @property
    def context(self) -> int:
        """Default number of earlier frames used as context of a frame; 0: frames are decoded from tokens alone."""
        return 0

    def new_context_buffer(
        self, context: int | None = None, given: Tensor | None = None, end: Tensor | None = None
    ) -> Any:
        """A context buffer for `decode`: at most `context` frames (None: the tokenizer's default), at first the true
        frames `given` [B, 3, n, H, W], and in addition a true `end` frame [B, 3, H, W]. Here None: decoders without
        context.

        Raises ConfigError if any context is requested of a tokenizer that decodes without context.
        """
        if context or given is not None or end is not None:
            raise ConfigError(
                f"context: this tokenizer ({self.config.type}) decodes without context; "
                "omit context, given frames and end frame"
            )
        return None

    @abstractmethod
    def forward(self, video: Tensor, random: SampleRandom | None = None) -> Reconstruction:
        """The training pass over float [B, C, T, H, W], with random numbers for these B clips if it needs any (None:
        any numbers).
        """

    @property
    def code_fingerprint(self) -> str:
        """Hex sha256 of what tokens depend on: all settings and tensors except decode-only ones, and the spec with its
        framing.
        """
        document = self.document
        settings = _code_settings(document["config"], self.config)
        decode_only = tuple(f"{name}." for name in self.decode_only_modules)
        tensors = {k: v for k, v in self.state_dict().items() if not f"{k}.".startswith(decode_only)}
        return fingerprint({"config": settings, "spec": document["spec"]}, tensors)

    def extra_repr(self) -> str:
        """The line that torch prints above the layers. Without the fingerprint, which reads every weight."""
        return f"{self.config.type}: {self.spec.summary}; {sum(p.numel() for p in self.parameters()):,} parameters"

    def fingerprints(self) -> dict[str, str]:
        return {"codes": self.code_fingerprint, **super().fingerprints()}

    def to_document(self) -> dict[str, Any]:
        return {"config": to_mapping(self.config), "spec": self.spec.to_json()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        spec = TokenSpec.from_json(document["spec"])
        tokenizer = build_tokenizer(document["config"], spec.frames, spec.framing)
        if tokenizer.spec != spec:
            raise ConfigError(f"spec: the configuration results in {shown(tokenizer.spec)}, the file has {shown(spec)}")
        return cls.require_own(tokenizer)

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """An untrained tokenizer of the preset. Raises ConfigError for an unknown preset or a missing section."""
        preset = load_preset(name)
        for section in ("tokenizer", "data"):
            if section not in preset:
                raise ConfigError(f"preset {name!r} has no section {section!r}; it has: {', '.join(preset)}")
        framing = from_mapping(Framing, preset["data"]["framing"], "data.framing")
        return cls.require_own(build_tokenizer(preset["tokenizer"], preset["data"]["frames"], framing))

    def require_framing(self, video: Tensor, name: str = "video") -> None:
        """Raises ConfigError unless video [B, C, T, H, W] has the channels and size of the spec's frames."""
        framing = self.spec.framing
        if video.ndim != 5 or video.shape[1] != 3 or video.shape[3:] != (framing.height, framing.width):
            raise ConfigError(
                f"{name} (shape {tuple(video.shape)}) must be [B, 3, T, {framing.height}, {framing.width}] "
                "for this tokenizer: frame the clips as in its spec"
            )

    @property
    def min_training_frames(self) -> int:
        """The fewest frames of a training clip: where tokens depend on no other code step one step's, else a clip's."""
        if self.spec.time != "framewise":
            return self.spec.frames
        return math.lcm(*(level.stride for level in self.spec.levels))

    @property
    def last_layer(self) -> Tensor:
        """Weights of the layer that outputs pixels, with respect to which adaptive adversarial weights are computed.

        Here the last registered weights; a subclass whose decoder registers others after them overrides this.
        """
        return [parameter for parameter in self.parameters() if parameter.ndim > 1][-1]

    @property
    def collapse_advice(self) -> str:
        """What to change if few codes are in use, in terms of the quantizers' settings."""
        configs = [part for part in vars(self.config).values() if isinstance(part, QuantizerConfig)]
        return (
            "; ".join(dict.fromkeys(config.collapse_advice for config in configs)) or QuantizerConfig().collapse_advice
        )

    def freeze(self) -> Self:
        """Sets evaluation mode and disables gradients, so that tokens stay the same while priors are trained."""
        return self.eval().requires_grad_(False)


def _code_settings(document: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The configuration's `document` without its `decode_only_settings`; nested configurations likewise."""
    decode_only = getattr(config, "decode_only_settings", ())
    settings = {name: value for name, value in document.items() if name not in decode_only}
    for name, value in settings.items():
        part = getattr(config, name)
        if dataclasses.is_dataclass(part):
            settings[name] = _code_settings(value, part)
    return settings


def build_tokenizer(section: Mapping[str, Any], frames: int, framing: Framing) -> VideoTokenizer:
    """The registered tokenizer of a `tokenizer:` section, for clips of `frames` frames with this framing."""
    config = TOKENIZERS.config(section, "tokenizer")
    member: Callable[..., VideoTokenizer] = TOKENIZERS.member(config.type)
    return member(config, frames, framing)


def token_grid(framing: Framing, factor: int) -> tuple[int, int]:
    """h, w of tokens of `factor` x `factor` pixels. Raises ConfigError if a side is not a multiple of `factor`."""
    for name, size in (("height", framing.height), ("width", framing.width)):
        if size % factor:
            raise ConfigError(f"framing.{name} (={size}) must be a multiple of {factor}, the side of a token in pixels")
    return framing.height // factor, framing.width // factor
