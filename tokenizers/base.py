"""What every video tokenizer is: pixels -> named streams of codes -> pixels, with a spec that stage two can rely on.

A tokenizer knows nothing of priors, caches or files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from tokenreel.config import Registry, from_mapping, load_preset, to_mapping
from tokenreel.data.spec import Framing, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.hub import PretrainedModel, fingerprint

Tokens = dict[str, Tensor]  # stream name -> integer codes [B, t, h, w, q]

TOKENIZERS = Registry(
    "tokenizer",
    {
        "frame-vqvae": "tokenreel.tokenizers.frame_vqvae:FrameVQVAE",
        "hierarchical-vqvae": "tokenreel.tokenizers.hierarchical_vqvae:HierarchicalVQVAE",
    },
)


@dataclass
class Reconstruction:
    """What a training step needs of a tokenizer."""

    video: Tensor  # [B, C, T, H, W] in [-1, 1]
    losses: dict[str, Tensor]  # scalars by name; their sum is what is minimised
    code_counts: dict[str, Tensor] = field(default_factory=dict)  # stream -> [q, K], how often each code was chosen


class VideoTokenizer(nn.Module, PretrainedModel):
    """Base of all tokenizers. A member sets `config_class` and `code_modules`, builds its `spec`, and fills in the
    three abstract methods; it is constructed as `Member(config, frames, framing)`.
    """

    kind: ClassVar[str] = "tokenizer"
    config_class: ClassVar[type[Any]]
    code_modules: ClassVar[tuple[str, ...]]  # submodules that the codes depend on: encoder and quantizer

    spec: TokenSpec

    def __init__(self, config: Any, spec: TokenSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @abstractmethod
    def encode(self, video: Tensor) -> Tokens:
        """float [B, C, T, H, W] in [-1, 1] -> codes by stream. Any T that fills whole code steps."""

    @abstractmethod
    def decode(self, tokens: Mapping[str, Tensor], memory: Any = None) -> Tensor:
        """Codes by stream -> float [B, C, T, H, W] in [-1, 1]. `memory`: known frames, for decoders with context."""

    @abstractmethod
    def forward(self, video: Tensor) -> Reconstruction:
        """The training pass over float [B, C, T, H, W]."""

    @property
    def code_fingerprint(self) -> str:
        """What the codes depend on: configuration, spec with its preprocessing, encoder and quantizer. Hex sha256."""
        tensors = {k: v for k, v in self.state_dict().items() if k.split(".")[0] in self.code_modules}
        return fingerprint(self.to_document(), tensors)

    def fingerprints(self) -> dict[str, str]:
        return {"codes": self.code_fingerprint, **super().fingerprints()}

    def to_document(self) -> dict[str, Any]:
        return {"config": to_mapping(self.config), "spec": self.spec.to_json()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> VideoTokenizer:
        spec = TokenSpec.from_json(document["spec"])
        tokenizer = build_tokenizer(document["config"], spec.frames, spec.framing)
        if tokenizer.spec != spec:
            raise ConfigError(f"spec: the configuration makes {tokenizer.spec}, the file says {spec}")
        return tokenizer

    @classmethod
    def from_preset(cls, name: str) -> VideoTokenizer:
        """An untrained tokenizer as the preset describes it. Raises ConfigError for an unknown preset or section."""
        preset = load_preset(name)
        for section in ("tokenizer", "data"):
            if section not in preset:
                raise ConfigError(f"preset {name!r} has no section {section!r}; it has: {', '.join(preset)}")
        framing = from_mapping(Framing, preset["data"]["framing"], "data.framing")
        return build_tokenizer(preset["tokenizer"], preset["data"]["frames"], framing)

    def freeze(self) -> Self:
        """Evaluation mode, no gradients: what stage two builds on must not move."""
        return self.eval().requires_grad_(False)


def build_tokenizer(section: Mapping[str, Any], frames: int, framing: Framing) -> VideoTokenizer:
    """The registered tokenizer that a `tokenizer:` section names, for clips of `frames` frames framed as given."""
    config = TOKENIZERS.config(section, "tokenizer")
    return TOKENIZERS.member(config.type)(config, frames, framing)
