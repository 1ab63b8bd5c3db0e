"""What every video tokenizer is: pixels -> named streams of codes -> pixels, with a spec that stage two can rely on.

A tokenizer knows nothing of priors, caches or files.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tokenreel.config import Registry, from_mapping, load_preset, to_mapping
from tokenreel.data.spec import Framing, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.hub import PretrainedModel, fingerprint
from tokenreel.tokenizers.quantizers.base import QuantizerConfig

Tokens = dict[str, Tensor]  # stream name -> integer codes [B, t, h, w, q]

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
    """What a training step needs of a tokenizer."""

    video: Tensor  # [B, C, T, H, W]; clamped to [-1, 1] it is what `decode` gives of the same codes
    losses: dict[str, Tensor]  # scalars by name; their sum is what is minimised
    code_counts: dict[str, Tensor] = field(default_factory=dict)  # stream -> [q, K], how often each code was chosen
    # What discriminators and perceptual networks judge, decoded and true; None: all frames of `video`, and `video`.
    pictures: tuple[Tensor, Tensor] | None = None  # [N, 3, H, W] each
    run: tuple[Tensor, Tensor] | None = None  # [B, 3, n, H, W] each


class VideoTokenizer(nn.Module, PretrainedModel):
    """Base of all tokenizers. A member sets `config_class`, builds its `spec`, and fills in the three abstract methods;
    it is constructed as `Member(config, frames, framing)`.

    The code fingerprint covers every tensor and every setting that is not listed as decode-only. Caches of codes stay
    valid when what is listed changes; list nothing that `encode` uses.
    """

    kind: ClassVar[str] = "tokenizer"
    config_class: ClassVar[type[Any]]
    decode_only_modules: ClassVar[tuple[str, ...]] = ()  # submodules and tensors that only decoding or training uses
    decode_only_settings: ClassVar[tuple[str, ...]] = ()  # fields of `config` likewise; a quantizer's has its own list

    spec: TokenSpec

    def __init__(self, config: Any, spec: TokenSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @property
    def device(self) -> torch.device:
        """Where the tokenizer computes; videos and tokens for it lie there too."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @abstractmethod
    def encode(self, video: Tensor) -> Tokens:
        """float [B, C, T, H, W] in [-1, 1] -> codes by stream. Any T that fills whole code steps."""

    @abstractmethod
    def decode(self, tokens: Mapping[str, Tensor], memory: Any = None) -> Tensor:
        """Codes by stream -> float [B, C, T, H, W] in [-1, 1]. `memory`: known frames, for decoders with context."""

    @property
    def context(self) -> int:
        """Frames before it that help to decode a frame, unless the caller says otherwise; 0: codes are all there is."""
        return 0

    def new_memory(self, context: int | None = None, known: Tensor | None = None, end: Tensor | None = None) -> Any:
        """What `decode` goes on from: at most `context` frames (None: as the tokenizer has it), `known` ones
        [B, 3, n, H, W] among them, and an `end` frame [B, 3, H, W] that lies ahead. Here nothing: None.

        Raises ConfigError where a tokenizer that decodes without context is asked for any.
        """
        if context or known is not None or end is not None:
            raise ConfigError(
                f"context: this tokenizer ({self.config.type}) decodes without context; "
                "leave out context, known frames and end frame"
            )
        return None

    @abstractmethod
    def forward(self, video: Tensor) -> Reconstruction:
        """The training pass over float [B, C, T, H, W]."""

    @property
    def code_fingerprint(self) -> str:
        """What the codes depend on: all settings and tensors but the decode-only ones, and the spec with its
        preprocessing. Hex sha256.
        """
        document = self.document
        settings = _settings_of_codes(document["config"], self.config, self.decode_only_settings)
        decode_only = tuple(f"{name}." for name in self.decode_only_modules)
        tensors = {k: v for k, v in self.state_dict().items() if not f"{k}.".startswith(decode_only)}
        return fingerprint({"config": settings, "spec": document["spec"]}, tensors)

    def extra_repr(self) -> str:
        """What torch prints above the layers. No fingerprint: that reads every weight."""
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
            raise ConfigError(f"spec: the configuration makes {tokenizer.spec}, the file says {spec}")
        return cls.require_own(tokenizer)

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """An untrained tokenizer as the preset describes it. Raises ConfigError for an unknown preset or section."""
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
                "for this tokenizer: frame the clips as its spec says"
            )

    @property
    def last_layer(self) -> Tensor:
        """Weights of the layer that makes the pixels, which an adaptive adversarial weight is measured at.

        Here the last registered weights; a member whose decoder registers others after them says which it is.
        """
        return [parameter for parameter in self.parameters() if parameter.ndim > 1][-1]

    @property
    def collapse_advice(self) -> str:
        """What helps where few codes are in use, in terms of its quantizers' settings."""
        configs = [part for part in vars(self.config).values() if isinstance(part, QuantizerConfig)]
        return "; ".join(dict.fromkeys(config.collapse_advice for config in configs)) or QuantizerConfig.collapse_advice

    def freeze(self) -> Self:
        """Evaluation mode, no gradients: what stage two builds on must not move."""
        return self.eval().requires_grad_(False)


def _settings_of_codes(written: Mapping[str, Any], config: Any, decode_only: Collection[str]) -> dict[str, Any]:
    """A configuration as it was `written` without the fields `decode_only`; of a part with `decode_only_settings` of
    its own (a quantizer) likewise.
    """
    settings = {name: value for name, value in written.items() if name not in decode_only}
    for name, value in settings.items():
        part = getattr(config, name)
        if hasattr(part, "decode_only_settings"):
            settings[name] = _settings_of_codes(value, part, part.decode_only_settings)
    return settings


def build_tokenizer(section: Mapping[str, Any], frames: int, framing: Framing) -> VideoTokenizer:
    """The registered tokenizer that a `tokenizer:` section names, for clips of `frames` frames framed as given."""
    config = TOKENIZERS.config(section, "tokenizer")
    member: Callable[..., VideoTokenizer] = TOKENIZERS.member(config.type)
    return member(config, frames, framing)


def code_grid(framing: Framing, factor: int) -> tuple[int, int]:
    """h, w of codes that stand for `factor` x `factor` pixels. Raises ConfigError where a side is no multiple of it."""
    for name, size in (("height", framing.height), ("width", framing.width)):
        if size % factor:
            raise ConfigError(f"framing.{name} (={size}) must be a multiple of {factor}, the pixels a code stands for")
    return framing.height // factor, framing.width // factor
