"""What every prior is: probabilities of codes in a fixed order, one code at a time, and nothing of pixels.

Stage two never sees a frame: a prior imports nothing of ours but the token spec, the configuration and the Hub. How a
code is chosen out of its probabilities is `priors/sampling/video.py`'s affair, the same for every prior.

B rows, L positions of the order, n codes fed at once, K the largest codebook among the predicted streams.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tokenreel.config import TYPE_KEY, Registry, from_mapping, load_preset, to_mapping
from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.hub import PretrainedModel

Tokens = Mapping[str, Tensor]  # stream name -> integer codes [B, t, h, w, q]

PRIORS: Registry[Prior] = Registry(
    "prior",
    {
        "gpt": "tokenreel.priors.gpt.model:GPT",
        "subscale-transformer": "tokenreel.priors.subscale.transformer:SubscaleTransformer",
        "pixelcnn-top": "tokenreel.priors.pixelcnn.levels:TopPixelCNN",
        "pixelcnn-bottom": "tokenreel.priors.pixelcnn.levels:BottomPixelCNN",
        "unigram": "tokenreel.priors.ngram.prior:UnigramPrior",
        "temporal-bigram": "tokenreel.priors.ngram.prior:TemporalBigramPrior",
    },
    base="tokenreel.priors.base:Prior",
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
    code_fingerprint: str | None = None  # the tokenizer whose codes it was trained on; None before training
    trained_without_controls: bool = (
        False  # also on null codes in the tracks of `control_streams`, which then mean none
    )

    def __init__(self, config: Any, spec: TokenSpec, predicts: tuple[str, ...], reads: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.predicts = predicts
        self.reads = reads

    @property
    def predicts_frames(self) -> bool:
        """Whether it predicts codes of frames; else it draws tracks, for another prior to be told."""
        return any(self.spec.stream(name).role == "level" for name in self.predicts)

    @property
    def control_streams(self) -> tuple[str, ...]:
        """The tracks that tell it something: all that it knows, or those that it reads where it draws the others."""
        names = (*self.reads, *self.predicts) if self.predicts_frames else self.reads
        return tuple(name for name in names if self.spec.stream(name).role == "control")

    @abstractmethod
    def order(self) -> Tensor:
        """int64 [L, 5] on the CPU: (index into `spec.streams`, t, h, w, q) of each code, in generation order.

        Any order will do (raster, subscale, tracks between the frames) and it may leave out steps of a predicted
        stream that are never targets; no code comes twice.
        """

    def prepare(self, clips: Iterable[Tokens]) -> None:
        """Looks at the clips to be trained on, in batches, once before training: for what is counted, not learnt.

        Nothing unless a member says so.
        """

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
        """Fills the caches with what is given: `tokens` hold all streams, `given` is bool [B, L] on their device.

        Each row then stands at its first position that is not given, at L if there is none; codes of `tokens` at
        positions not given are never looked at. A prior that lets given codes condition earlier ones reads them here.
        """

    @abstractmethod
    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        """Feeds `indices` [B, n], of which the first `count` [B] (0..n) are valid, from each row's position on. Returns
        log-probs [B, n, K]: entry i is for the position after code i (undefined from `count` on, and after the order's
        last code). Advances `position` by `count`.

        Given positions in the middle of the order are fed like drawn ones, with the codes that `start` was given.
        The trap: rows finish at different times, so position + n may pass L where `count` is smaller, and codes beyond
        `count` are noise, any int64: neither may fail nor reach what the row computes later.
        """

    @abstractmethod
    def rewind(self, state: State, position: Tensor) -> None:
        """Takes rows back to an earlier `position` [B]: what was fed from there on counts as never fed."""

    def extra_repr(self) -> str:
        """What torch prints above the layers."""
        streams = f"predicts {', '.join(self.predicts)}, reads {', '.join(self.reads) or 'nothing'}"
        codes = "untrained" if self.code_fingerprint is None else f"trained on codes of {self.code_fingerprint[:8]}"
        parameters = sum(p.numel() for p in self.parameters())
        return f"{self.config.type}: {streams}; {self.spec.summary}; {parameters:,} parameters; {codes}"

    @property
    def device(self) -> torch.device:
        """Where the prior computes; tokens for it lie there too."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def codebook_sizes(self) -> Tensor:
        """int64 [L]: the size of the codebook at each position of the order."""
        sizes = torch.tensor([stream.codebook_size for stream in self.spec.streams])
        return sizes[self.order()[:, 0]]

    def positions_of(self, name: str) -> Tensor:
        """bool [L]: true at the positions of the stream of that name. Raises ConfigError where the spec has none."""
        return self.order()[:, 0] == self.spec.streams.index(self.spec.stream(name))

    def flatten(self, tokens: Tokens) -> Tensor:
        """Codes by stream -> int64 [B, L] in generation order."""
        order = self.order()
        flat = torch.empty(_rows(tokens), len(order), dtype=torch.long, device=next(iter(tokens.values())).device)
        for name in self.predicts:
            where = self.positions_of(name).nonzero().squeeze(1)
            t, h, w, q = order[where, 1:].unbind(1)
            flat[:, where] = tokens[name].long()[:, t, h, w, q]
        return flat

    def unflatten(self, flat: Tensor, tokens: Tokens | None = None) -> dict[str, Tensor]:
        """[B, L] in generation order -> the predicted streams [B, t, h, w, q]; undoes `flatten`.

        Codes that the order leaves out are those of `tokens`, 0 where it lacks the stream.
        """
        order, streams = self.order(), dict[str, Tensor]()
        for name in self.predicts:
            where = self.positions_of(name).nonzero().squeeze(1)
            t, h, w, q = order[where, 1:].unbind(1)
            if tokens is not None and name in tokens:
                indices = tokens[name].to(flat.dtype, copy=True)
            else:
                indices = flat.new_zeros(len(flat), *self.spec.stream(name).shape)
            indices[:, t, h, w, q] = flat[:, where]
            streams[name] = indices
        return streams

    def given_frames(self, frames: int) -> Tensor:
        """bool [L]: true at the positions of the level codes that the first `frames` frames make; where it draws no
        frames, of the tracks' codes that go with them.

        Raises ConfigError where the stride does not divide, where `frames` exceeds the clip, and where codes of these
        frames would tell what comes after them: a `window` tokenizer's do, but for those encoded alone.
        """
        if not 0 <= frames <= self.spec.frames:
            raise ConfigError(f"given frames (={frames}) must be between 0 and the clip's {self.spec.frames}")
        alone = self.spec.frames_encoded_alone
        if self.spec.time == "window" and frames != alone:
            raise ConfigError(
                f"given frames (={frames}) must be {alone}: this tokenizer's codes know later frames, and only the "
                f"first {alone} frames were also encoded alone"
            )
        step = self.order()[:, 1]
        given = torch.zeros(len(step), dtype=torch.bool)
        for stream in map(self.spec.stream, self.predicts):
            if stream.role == "level" or not self.predicts_frames:
                given |= self.positions_of(stream.name) & (step < self.spec.steps_of_frames(frames, stream))
        return given

    def given_streams(self, names: Iterable[str]) -> Tensor:
        """bool [L]: true at every position of the named streams; a predicted track is given so, or else drawn."""
        given = torch.zeros(len(self.order()), dtype=torch.bool)
        for name in names:
            given |= self.positions_of(name)
        return given

    def to_document(self) -> dict[str, Any]:
        return {
            "config": to_mapping(self.config),
            "spec": self.spec.to_json(),
            "code_fingerprint": self.code_fingerprint,
            "trained_without_controls": self.trained_without_controls,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        prior = cls.require_own(build_prior(document["config"], TokenSpec.from_json(document["spec"])))
        prior.code_fingerprint = document["code_fingerprint"]
        prior.trained_without_controls = document.get("trained_without_controls", False)
        return prior

    @classmethod
    def from_preset(cls, name: str, spec: TokenSpec | None = None, level: str | None = None) -> Self:
        """An untrained prior as the preset describes it, for the tokens of `spec` (left out: the preset's own `tokens:`
        section); the one for `level` where it has several. Raises ConfigError for an unknown preset, or a section or
        level that it lacks.
        """
        preset = load_preset(name)
        if "prior" not in preset:
            raise ConfigError(f"preset {name!r} has no section 'prior'; it has: {', '.join(preset)}")
        if spec is None:
            if "tokens" not in preset:
                raise ConfigError(f"preset {name!r} does not say for which tokens: pass spec=tokenizer.spec")
            spec = from_mapping(TokenSpec, preset["tokens"], "tokens")
        return cls.require_own(build_prior(part_of_level(preset["prior"], level), spec))


def levels_of(section: Mapping[str, Any]) -> list[str | None]:
    """The levels that a `prior:` section has a part for, in the order in which they are sampled; [None]: it is one.

    Raises ConfigError where it is neither one prior nor a part for each level.
    """
    if not isinstance(section, Mapping) or not section:
        raise ConfigError(f"prior: expected a mapping, got {section!r}")
    if TYPE_KEY in section:
        return [None]
    for name, part in section.items():
        if not isinstance(part, Mapping):
            raise ConfigError(
                f"prior.{name}: not a prior's part. Without {TYPE_KEY!r} the section holds one for each level: write "
                f"prior.LEVEL.{name}; or give prior.{TYPE_KEY}"
            )
    return list(section)


def part_of_level(section: Mapping[str, Any], level: str | None) -> Mapping[str, Any]:
    """What a `prior:` section says of one prior. Raises ConfigError where `level` names none, or is needed."""
    levels = levels_of(section)
    if level not in levels:
        known = (
            "a single prior: leave --level out"
            if levels == [None]
            else f"a prior for each of {levels}: --level says which"
        )
        raise ConfigError(f"--level (={level}): this preset has {known}")
    return section if level is None else section[level]


def build_prior(section: Mapping[str, Any], spec: TokenSpec) -> Prior:
    """The registered prior that a `prior:` section names, for the tokens of `spec`."""
    config = PRIORS.config(section, "prior")
    member: Callable[..., Prior] = PRIORS.member(config.type)
    return member(config, spec)


def raster_order(spec: TokenSpec, names: Iterable[str]) -> Tensor:
    """int64 [L, 5], one stream after the other, each as t, h, w, q count up; on the CPU whatever the default device."""
    rows = []
    with torch.device("cpu"):
        for name in names:
            stream = spec.stream(name)
            index = torch.full((stream.positions, 1), spec.streams.index(stream))
            rows.append(torch.cat([index, torch.cartesian_prod(*map(torch.arange, stream.shape))], 1))
    return torch.cat(rows)


def _rows(tokens: Tokens) -> int:
    return next(iter(tokens.values())).shape[0]
