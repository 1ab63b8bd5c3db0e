"""The contract of all priors: probabilities of tokens in a fixed order, one token at a time.

How a token is sampled from its probabilities is the same for every prior: `priors/sampling/video.py`.

B rows, L positions of the order, n tokens fed at once, K the largest codebook size among the predicted streams.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tokenreel.config import TYPE_KEY, from_mapping, load_preset, to_mapping
from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.errors import ConfigError, shown
from tokenreel.hub import PretrainedModel
from tokenreel.registry import Registry
from tokenreel.sample_random import SampleRandom

Tokens = Mapping[str, Tensor]  # stream name -> integer tokens [B, t, h, w, q]

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


MAX_POSITIONS = 1 << 20  # of a clip
MAX_VOCABULARY = 1 << 24  # codes of all codebooks


@dataclass
class State:
    """How far each row has advanced. A subclass adds its caches, allocated once with a fixed shape."""

    position: Tensor  # int64 [B], the next token's index in the order
    log_probs: Tensor  # [B, K] nats at that position, as of `start`; -inf beyond the position's own codebook


class Prior(nn.Module, PretrainedModel):
    """Base class of all priors. A subclass sets `config_class` and is constructed as `Subclass(config, spec)`.

    Given positions may lie anywhere in the order. Their tokens condition at least everything later in the order; a
    subclass may let them condition earlier positions as well. Rows advance independently.
    """

    kind: ClassVar[str] = "prior"
    half_precision: ClassVar[bool] = True
    config_class: ClassVar[type[Any]]

    spec: TokenSpec
    reads: tuple[str, ...]  # streams that only condition, and are complete (a bottom prior reads top)
    predicts: tuple[str, ...]  # streams whose tokens have probabilities
    code_fingerprint: str | None = None  # of the tokenizer whose tokens it was trained on; None before training
    trained_without_controls: bool = False  # whether some training clips had unconditional tokens for their controls
    trained_given_frames: int = 0  # of its training clips, first frames whose tokens it did not learn

    def __init__(self, config: Any, spec: TokenSpec, predicts: tuple[str, ...], reads: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.predicts = predicts
        self.reads = reads

    @property
    def predicts_frames(self) -> bool:
        """Whether it predicts a level. A control prior does not: it generates controls for another prior."""
        return any(self.spec.stream(name).role == "level" for name in self.predicts)

    @property
    def control_streams(self) -> tuple[str, ...]:
        """The control streams that condition it: all that it knows, but of a control prior only those that it reads."""
        names = (*self.reads, *self.predicts) if self.predicts_frames else self.reads
        return tuple(name for name in names if self.spec.stream(name).role == "control")

    @abstractmethod
    def order(self) -> Tensor:
        """int64 [L, 5] on the CPU: (index into `spec.streams`, t, h, w, q) of each token, in generation order.

        Any order is possible (raster, subscale, controls between the frames). No token occurs twice; steps of a
        predicted stream that are never targets may be omitted.
        """

    def prepare(self, clips: Iterable[Tokens]) -> None:
        """Collects statistics of the training clips, which come in batches, once before training.

        Does nothing by default.
        """

    @abstractmethod
    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        """Teacher-forced log-probabilities [B, L] in nats, 0 where `given` (bool [B, L])."""

    @abstractmethod
    def loss(self, tokens: Tokens, given: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Mean nats per token that is not given, for one training step.

        May compute a random part of the order, chosen with `random`, if its expectation is that mean. `random` has
        numbers for these B rows; None: any numbers.
        """

    @abstractmethod
    def start(self, tokens: Tokens, given: Tensor) -> State:
        """Fills the caches with what is given: `tokens` hold all streams, `given` is bool [B, L] on their device.

        Each row then stands at its first position that is not given, or at L if all are. Tokens at positions that are
        not given are never read. A prior in which given tokens condition earlier positions reads all of them here.
        """

    @abstractmethod
    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        """Feeds `indices` [B, n], of which the first `count` [B] (0..n) are valid, from each row's position on, and
        advances `position` by `count`. Returns log-probabilities [B, n, K]: entry i is for the position after token i
        (undefined from `count` on, and after the order's last token).

        Given positions in the middle of the order are fed like sampled ones, with the tokens that `start` was given.
        The trap: rows finish at different times, so position + n may exceed L where `count` is smaller, and indices
        beyond `count` are noise, any int64. Neither may fail or affect what the row computes later.
        """

    @abstractmethod
    def rewind(self, state: State, position: Tensor) -> None:
        """Moves rows back to an earlier `position` [B], as if nothing had been fed from there on."""

    def extra_repr(self) -> str:
        """The summary that torch prints above the layers."""
        streams = f"predicts {', '.join(self.predicts)}, reads {', '.join(self.reads) or 'none'}"
        trained = "untrained" if self.code_fingerprint is None else f"trained on tokens of {self.code_fingerprint[:8]}"
        parameters = sum(p.numel() for p in self.parameters())
        return f"{self.config.type}: {streams}; {self.spec.summary}; {parameters:,} parameters; {trained}"

    @property
    def device(self) -> torch.device:
        """The device that the prior computes on; its tokens must be there too."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def codebook_sizes(self) -> Tensor:
        """int64 [L]: the size of the codebook at each position of the order."""
        sizes = torch.tensor([stream.codebook_size for stream in self.spec.streams], device="cpu")
        return sizes[self.order()[:, 0]]

    def codebooks(self) -> list[tuple[StreamSpec, int]]:
        """The codebooks of the predicted streams, each as (stream, q), in the order of `predicts`."""
        streams = map(self.spec.stream, self.predicts)
        return [(stream, q) for stream in streams for q in range(stream.codebooks)]

    def codebook_index(self) -> Tensor:
        """int64 [L]: the index in `codebooks()` of the codebook that each position of the order uses."""
        q = self.order()[:, 4]
        index = torch.empty_like(q)
        for i, (stream, codebook) in enumerate(self.codebooks()):
            index[self.positions_of(stream.name) & (q == codebook)] = i
        return index

    def positions_of(self, name: str) -> Tensor:
        """bool [L]: true at the positions of the stream `name`. Raises ConfigError if the spec lacks it."""
        return self.order()[:, 0] == self.spec.streams.index(self.spec.stream(name))

    def flatten(self, tokens: Tokens) -> Tensor:
        """Tokens by stream -> int64 [B, L] in generation order."""
        order = self.order()
        flat = torch.empty(_rows(tokens), len(order), dtype=torch.long, device=next(iter(tokens.values())).device)
        for name in self.predicts:
            positions = self.positions_of(name).nonzero().squeeze(1)
            t, h, w, q = order[positions, 1:].unbind(1)
            flat[:, positions] = tokens[name].long()[:, t, h, w, q]
        return flat

    def unflatten(self, flat: Tensor, tokens: Tokens | None = None) -> dict[str, Tensor]:
        """[B, L] in generation order -> the predicted streams [B, t, h, w, q]; the inverse of `flatten`.

        Tokens that the order omits are taken from `tokens`, or 0 where it lacks the stream.
        """
        order, streams = self.order(), dict[str, Tensor]()
        for name in self.predicts:
            positions = self.positions_of(name).nonzero().squeeze(1)
            t, h, w, q = order[positions, 1:].unbind(1)
            if tokens is not None and name in tokens:
                indices = tokens[name].to(flat.dtype, copy=True)
            else:
                indices = flat.new_zeros(len(flat), *self.spec.stream(name).shape)
            indices[:, t, h, w, q] = flat[:, positions]
            streams[name] = indices
        return streams

    def given_frames(self, frames: int) -> Tensor:
        """bool [L]: true at the level tokens of the first `frames` frames; for a control prior, at the control tokens
        that go with these frames.

        Raises ConfigError where the stride does not divide `frames`, where `frames` exceeds the clip, and where the
        tokens of these frames depend on later frames: for a `window` tokenizer, unless they were encoded alone.
        """
        if not 0 <= frames <= self.spec.frames:
            raise ConfigError(f"given frames (={frames}) must be between 0 and the clip's {self.spec.frames}")
        alone = self.spec.frames_encoded_alone
        if self.spec.time == "window" and frames != alone:
            raise ConfigError(
                f"given frames (={frames}) must be {alone}: this tokenizer's tokens depend on later frames, and only "
                f"the first {alone} frames were also encoded alone"
            )
        step = self.order()[:, 1]
        given = torch.zeros(len(step), dtype=torch.bool)
        for stream in map(self.spec.stream, self.predicts):
            if stream.role == "level" or not self.predicts_frames:
                given |= self.positions_of(stream.name) & (step < self.spec.steps_of_frames(frames, stream))
        return given

    def given_streams(self, names: Iterable[str]) -> Tensor:
        """bool [L]: true at every position of the named streams, which are then given instead of sampled."""
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
            "trained_given_frames": self.trained_given_frames,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        prior = cls.require_own(build_prior(document["config"], TokenSpec.from_json(document["spec"])))
        prior.code_fingerprint = document["code_fingerprint"]
        prior.trained_without_controls = document["trained_without_controls"]
        prior.trained_given_frames = document["trained_given_frames"]
        return prior

    @classmethod
    def from_preset(cls, name: str, spec: TokenSpec | None = None, level: str | None = None) -> Self:
        """An untrained prior as the preset describes it, for the tokens of `spec` (default: the preset's own `tokens:`
        section), and for `level` where the preset has one prior per level. Raises ConfigError for an unknown preset, or
        a section or level that it lacks.
        """
        preset = load_preset(name)
        if "prior" not in preset:
            raise ConfigError(f"preset {name!r} has no section 'prior'; it has: {', '.join(preset)}")
        if spec is None:
            if "tokens" not in preset:
                raise ConfigError(f"preset {name!r} has no section 'tokens': pass spec=tokenizer.spec")
            spec = from_mapping(TokenSpec, preset["tokens"], "tokens")
        return cls.require_own(build_prior(part_of_level(preset["prior"], level), spec))


def levels_of(section: Mapping[str, Any]) -> list[str | None]:
    """The levels for which a `prior:` section has a prior, in the order in which they are sampled; [None] where it
    describes a single prior.

    Raises ConfigError where it is neither one prior nor one per level.
    """
    if not isinstance(section, Mapping) or not section:
        raise ConfigError(f"prior: expected a mapping, got {shown(section)}")
    if TYPE_KEY in section:
        return [None]
    for name, part in section.items():
        if not isinstance(part, Mapping):
            raise ConfigError(
                f"prior.{name}: expected a mapping, as the section has no {TYPE_KEY!r} and so one prior per level: "
                f"write prior.LEVEL.{name}, or set prior.{TYPE_KEY}"
            )
    return list(section)


def part_of_level(section: Mapping[str, Any], level: str | None) -> Mapping[str, Any]:
    """The part of a `prior:` section that describes one prior. Raises ConfigError where `level` names none, or is
    missing.
    """
    levels = levels_of(section)
    if level not in levels:
        known = (
            "a single prior: omit --level"
            if levels == [None]
            else f"a prior for each of {levels}: choose one with --level"
        )
        raise ConfigError(f"--level (={level}): this preset has {known}")
    return section if level is None else section[level]


def build_prior(section: Mapping[str, Any], spec: TokenSpec) -> Prior:
    """The registered prior that a `prior:` section names, for the tokens of `spec`."""
    config = PRIORS.config(section, "prior")
    _require_size(spec)
    member: Callable[..., Prior] = PRIORS.member(config.type)
    return member(config, spec)


def _require_size(spec: TokenSpec) -> None:
    """Raises ConfigError for tokens that no prior can take: orders and tables of codebooks have entries for each."""
    positions = sum(stream.positions for stream in spec.streams)
    vocabulary = sum(stream.codebooks * stream.codebook_size for stream in spec.streams)
    for what, found, limit in (("tokens", positions, MAX_POSITIONS), ("different codes", vocabulary, MAX_VOCABULARY)):
        if found > limit:
            raise ConfigError(f"the spec's clips have {found:,} {what}; a prior takes at most {limit:,}")


def raster_order(spec: TokenSpec, names: Iterable[str]) -> Tensor:
    """int64 [L, 5], one stream after the other, each in raster order (t, h, w, q); on the CPU, whatever the default
    device.
    """
    rows = []
    with torch.device("cpu"):
        for name in names:
            stream = spec.stream(name)
            index = torch.full((stream.positions, 1), spec.streams.index(stream))
            rows.append(torch.cat([index, torch.cartesian_prod(*map(torch.arange, stream.shape))], 1))
    return torch.cat(rows)


def vocabulary_size(stream: StreamSpec) -> int:
    """The number of different tokens in a stream: its codebook, and the unconditional token if it has one."""
    return stream.codebook_size + (stream.unconditional_token is not None)


def _rows(tokens: Tokens) -> int:
    return next(iter(tokens.values())).shape[0]
