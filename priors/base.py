"""What every prior is: probabilities of codes in a fixed order, one code at a time, and nothing of pixels.

Stage two never sees a frame: a prior imports nothing of ours but the token spec, the configuration and the Hub.

B rows, L positions of the order, n codes fed at once, K the largest codebook among the predicted streams.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenreel.config import Registry, from_mapping, load_preset, to_mapping
from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.hub import PretrainedModel

Tokens = Mapping[str, Tensor]  # stream name -> integer codes [B, t, h, w, q]

PRIORS = Registry(
    "prior",
    {
        "gpt": "tokenreel.priors.gpt:GPT",
        "code-frequency": "tokenreel.priors.counted:CodeFrequency",
        "previous-step": "tokenreel.priors.counted:PreviousStep",
    },
)


@dataclass
class State:
    """How far each row has come. A member adds its caches, allocated once with a fixed shape."""

    position: Tensor  # [B], index into the order of the next code
    log_probs: Tensor  # [B, K] nats for that position, as `start` leaves them; -inf beyond the position's own codebook


class Prior(nn.Module, PretrainedModel):
    """Base of all priors. A member sets `config_class` and is constructed as `Member(config, spec)`.

    Positions that are given may lie anywhere in the order; they condition whatever the member lets them condition, and
    at least everything later in the order. Rows advance independently.
    """

    kind: ClassVar[str] = "prior"
    config_class: ClassVar[type[Any]]

    spec: TokenSpec
    reads: tuple[str, ...]  # streams that come whole and only condition (a bottom prior reads top)
    predicts: tuple[str, ...]  # streams whose codes have probabilities

    def __init__(self, config: Any, spec: TokenSpec, predicts: tuple[str, ...], reads: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.predicts = predicts
        self.reads = reads

    @abstractmethod
    def order(self) -> Tensor:
        """int64 [L, 5]: (index into `spec.streams`, t, h, w, q) of each code, in generation order."""

    @abstractmethod
    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        """Teacher-forced log-probabilities [B, L] in nats, 0 where `given` (bool [B, L])."""

    @abstractmethod
    def loss(self, tokens: Tokens, given: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean nats of a code that is not given, for one training step. May draw one unit of the order with `generator`
        instead of computing all L, and is then right in expectation.
        """

    @abstractmethod
    def start(self, tokens: Tokens, given: Tensor) -> State:
        """Fills the caches with what is given. Each row then stands at its first position that is not given; codes of
        `tokens` at positions not given are never looked at.
        """

    @abstractmethod
    def step(self, state: State, codes: Tensor, count: Tensor) -> Tensor:
        """Feeds `codes` [B, n], of which the first `count` [B] (0..n) are valid, from each row's position on. Returns
        log-probs [B, n, K]: entry i is for the position after code i (undefined from `count` on). Advances `position`.
        """

    @abstractmethod
    def rewind(self, state: State, position: Tensor) -> None:
        """Takes rows back to an earlier `position` [B]: what was fed from there on counts as never fed."""

    def position_codes(self) -> Tensor:
        """int64 [L]: the size of the codebook at each position of the order."""
        sizes = torch.tensor([stream.codes for stream in self.spec.streams])
        return sizes[self.order()[:, 0]]

    def flatten(self, tokens: Tokens) -> Tensor:
        """Codes by stream -> int64 [B, L] in generation order."""
        order = self.order()
        flat = torch.empty(_rows(tokens), len(order), dtype=torch.long, device=next(iter(tokens.values())).device)
        for index, stream in enumerate(self.spec.streams):
            where = (order[:, 0] == index).nonzero().squeeze(1)
            if len(where):
                t, h, w, q = order[where, 1:].unbind(1)
                flat[:, where] = tokens[stream.name].long()[:, t, h, w, q]
        return flat

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """int64 [B, L] in generation order -> the predicted streams' codes [B, t, h, w, q]; undoes `flatten`."""
        order, tokens = self.order(), {}
        for index, stream in enumerate(self.spec.streams):
            where = (order[:, 0] == index).nonzero().squeeze(1)
            if len(where):
                t, h, w, q = order[where, 1:].unbind(1)
                codes = flat.new_zeros(len(flat), *stream.shape)
                codes[:, t, h, w, q] = flat[:, where]
                tokens[stream.name] = codes
        return tokens

    def given_frames(self, frames: int) -> Tensor:
        """bool [L]: true at the positions of the level codes that the first `frames` frames make.

        Raises ConfigError where the stride does not divide, or where `frames` exceeds the clip.
        """
        if not 0 <= frames <= self.spec.frames:
            raise ConfigError(f"given frames (={frames}) must be between 0 and the clip's {self.spec.frames}")
        order = self.order()
        given = torch.zeros(len(order), dtype=torch.bool)
        for index, stream in enumerate(self.spec.streams):
            if stream.role == "level" and stream.name in self.predicts:
                steps = self.spec.steps_of_frames(frames, stream)
                given |= (order[:, 0] == index) & (order[:, 1] < steps)
        return given

    def to_document(self) -> dict[str, Any]:
        return {"config": to_mapping(self.config), "spec": self.spec.to_json()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Prior:
        return build_prior(document["config"], TokenSpec.from_json(document["spec"]))

    @classmethod
    def from_preset(cls, name: str, spec: TokenSpec | None = None) -> Prior:
        """An untrained prior as the preset describes it, for the tokens of `spec` (left out: the preset's own `tokens:`
        section). Raises ConfigError for an unknown preset or a section that it lacks.
        """
        preset = load_preset(name)
        if "prior" not in preset:
            raise ConfigError(f"preset {name!r} has no section 'prior'; it has: {', '.join(preset)}")
        if spec is None:
            if "tokens" not in preset:
                raise ConfigError(f"preset {name!r} does not say for which tokens: pass spec=tokenizer.spec")
            spec = from_mapping(TokenSpec, preset["tokens"], "tokens")
        return build_prior(preset["prior"], spec)


def build_prior(section: Mapping[str, Any], spec: TokenSpec) -> Prior:
    """The registered prior that a `prior:` section names, for the tokens of `spec`."""
    config = PRIORS.config(section, "prior")
    return PRIORS.member(config.type)(config, spec)


def _rows(tokens: Tokens) -> int:
    return next(iter(tokens.values())).shape[0]
