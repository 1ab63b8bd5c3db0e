"""GPT: a decoder-only transformer over the codes of a clip, after CCVS (Le Moing et al. 2021, section 3.3).

First comes what steers the whole clip, if it is so configured (`priors/gpt/prefix.py`). Then codes are taken frame by
frame, each frame's tracks before its levels. The input at a code is the embedding of the code before it, its position's
(`priors/gpt/positions.py`) and what options add (`priors/gpt/inputs.py`). It knows no pixels and draws nothing:
`priors/sampling/video.py` does.

B rows, P codes of the prefix, L positions of the order, n codes fed at once, D width, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.spec import END, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, State, Tokens
from tokenreel.priors.gpt.inputs import FEATURES
from tokenreel.priors.gpt.layout import codebooks, controlled_spec, embedding_sizes, frame_order
from tokenreel.priors.gpt.positions import DecomposedPositions, JointPositions
from tokenreel.priors.gpt.prefix import Prefix
from tokenreel.priors.layers.cached_transformer import CachedTransformer, PackedLinear
from tokenreel.priors.layers.tokens import TokenEmbedding, TokenOutput
from tokenreel.priors.layers.transformer import Transformer


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the transformer; everything else follows from the tokens."""

    type: ClassVar[str] = "gpt"
    depth: int  # blocks
    width: int  # D
    heads: int
    dropout: float = 0.0  # share dropped of the embeddings and of both outputs of each block, not of attention weights
    previous_step: bool = False  # the code one step before at the place to be predicted is an input too; not in CCVS
    latest_controls: bool = False  # the latest codes of frame-level tracks are an input at each code too; not in CCVS
    end_frame_input: bool = False  # the end frame's code at the place to be predicted is an input too; not in CCVS
    controls: tuple[str, ...] = ()  # tracks that steer it; "end" is the clip's last frame, derived from its codes
    controls_only: bool = False  # predict frame-level tracks and no frame: a prior that they steer draws after it
    positions: Literal["decomposed", "joint"] = "decomposed"  # joint: a vector for each position, no sum (CCVS table 2)

    def __post_init__(self) -> None:
        if min(self.depth, self.width, self.heads) < 1 or self.width % self.heads:
            raise ConfigError(
                f"depth (={self.depth}), width (={self.width}) and heads (={self.heads}) must be at least 1, "
                "and width a multiple of heads"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout (={self.dropout}) must be at least 0 and below 1")
        if self.end_frame_input and END not in self.controls:
            raise ConfigError(f"end_frame_input: controls (={list(self.controls)}) must have the end frame, {END!r}")
        if self.controls_only and END in self.controls:
            raise ConfigError(
                f"controls_only: an end frame (controls={list(self.controls)}) steers frames; leave one out"
            )


@dataclass
class GPTState(State):
    """Slots 0 to P - 1 of the cache hold the prefix, slot P the start vector, slot P + i + 1 the code at position i.

    The order's last code has nothing after it and is never attended to: its slot takes whatever must not be kept.
    """

    cache: CachedTransformer
    positions: Tensor  # [L, D]
    output: PackedLinear
    indices: Tensor  # int64 [B, L], those fed so far; the others have no meaning
    tokens: Tokens  # that it started from, for the input features


class GPT(Prior):
    """p(code | all codes before it in the order), for every level and every track of several steps in its `controls`;
    what is given conditions what is later. Tracks of one step are read: they come first, and cost nothing. With
    `controls_only` the levels are left out: some tracks say in few codes what many codes of frames then follow.

    `spec` may hold other tracks as well; the prior's own does not. Raises ConfigError where it lacks one of `controls`.
    Sampling runs in the precision of the weights: `prior.to(torch.bfloat16)` halves what has to be read for a code.
    """

    config: GPTConfig
    config_class = GPTConfig

    def __init__(self, config: GPTConfig, spec: TokenSpec) -> None:
        if spec.time == "window":
            raise ConfigError(
                "a GPT would be given codes that know later frames, as this tokenizer's do: use pixelcnn-top, -bottom"
            )
        spec = controlled_spec(spec, config.controls)
        super().__init__(config, spec, *_predicted_and_read(config, spec))
        order, first_frame = frame_order(spec, self.predicts)
        self._order, width = torch.from_numpy(order), config.width
        joint = config.positions == "joint"
        self.positions = JointPositions(len(order), width) if joint else DecomposedPositions(order, first_frame, width)
        streams, book = codebooks(spec, order)
        self.token_embedding = TokenEmbedding(embedding_sizes(streams), torch.from_numpy(book), width)
        self.inputs = _input_features(config, spec, order)
        self.prefix = Prefix(spec, self.reads, order, width) if self.reads else None
        self.start_vector = nn.Parameter(torch.empty(width))
        self.transformer = Transformer(config.depth, width, config.heads, config.dropout)
        self.output = TokenOutput([stream.codebook_size for stream in streams], torch.from_numpy(book), width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As GPT-2 does: normal with these deviations, biases 0."""
        residual = 0.02 / (2 * self.config.depth) ** 0.5  # so that the sum over all blocks has the size of one
        deviations = {"out": residual, "contract": residual}
        nn.init.normal_(self.start_vector, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=deviations.get(name.rpartition(".")[2], 0.02))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def order(self) -> Tensor:
        return self._order

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        return -self._nats(tokens, given, None)

    def loss(self, tokens: Tokens, given: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self._nats(tokens, given, generator).sum() / (~given).sum()

    def _nats(self, tokens: Tokens, given: Tensor, generator: torch.Generator | None) -> Tensor:
        """Minus log-probabilities [B, L], 0 where given."""
        flat = self.flatten(tokens)
        x = self.transformer(self._first_inputs(tokens, flat, flat.shape[1], self.positions()), generator)
        nats = self.output.nats(x[:, self._prefix_length :], flat.masked_fill(given, 0))  # a null code is always given
        return nats.masked_fill(given, 0)

    @property
    def _prefix_length(self) -> int:
        """P"""
        return self.prefix.length if self.prefix else 0

    def _first_inputs(self, tokens: Tokens, flat: Tensor, n: int, positions: Tensor) -> Tensor:
        """[B, P + n, D]: the prefix, the start vector and the first n - 1 codes of `flat` [B, L], to predict the first
        n.
        """
        start = self.start_vector.expand(len(flat), 1, -1)
        x = torch.cat([start, self.token_embedding(flat[:, : n - 1], slice(n - 1)) + positions[: n - 1]], 1)
        x = self._with_features(x, flat, tokens, slice(n))
        return torch.cat([self.prefix(tokens, self.token_embedding, positions), x], 1) if self.prefix else x

    def _with_features(self, x: Tensor, flat: Tensor, tokens: Tokens, target: Tensor | slice) -> Tensor:
        for feature in self.inputs.values():
            x = x + feature(flat, tokens, target)
        return x

    @torch.no_grad()
    def start(self, tokens: Tokens, given: Tensor) -> GPTState:
        (rows, length), prefix = given.shape, self._prefix_length
        position = torch.where(given.all(1), length, (~given).int().argmax(1))
        target = position.clamp(max=length - 1)  # where everything is given there is none: any will do
        cache = CachedTransformer(self.transformer, rows, prefix + length + 1)
        positions, output = self.positions(), PackedLinear(self.output.linear.weight)
        indices, n = self.flatten(tokens).masked_fill(~given, 0), int(target.max()) + 1
        x = self._first_inputs(tokens, indices, n, positions)
        x = cache.extend(x, torch.arange(prefix + n, device=indices.device)[None])
        x = x[torch.arange(rows, device=x.device), prefix + target]
        return GPTState(position, self.output.log_probs(output(x), target), cache, positions, output, indices, tokens)

    @torch.no_grad()
    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, GPTState)
        line = torch.arange(indices.shape[1], device=indices.device)
        last = len(state.positions) - 1
        at = (state.position[:, None] + line).clamp(max=last)
        target = (at + 1).clamp(max=last)
        indices = indices.where(line < count[:, None], 0)  # noise may lie beyond the codebook
        x = self.token_embedding(indices, at) + state.positions[at]
        state.indices.scatter_(1, at, indices)  # beyond the end all write to the last code, which is nobody's source
        x = self._with_features(x, state.indices, state.tokens, target)
        x = state.cache.extend(x, self._prefix_length + at + 1)
        state.position = state.position + count
        return self.output.log_probs(state.output(x), target)

    def rewind(self, state: State, position: Tensor) -> None:
        state.position = position


def _predicted_and_read(config: GPTConfig, spec: TokenSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the streams that are predicted, and of those that are read.

    Raises ConfigError where an option needs frame-level tracks and the controls have none.
    """
    running = [stream for stream in spec.streams if spec.runs_with_video(stream)]
    tracks = tuple(stream.name for stream in running if stream.role == "control")
    for option in ("controls_only", "latest_controls"):
        if getattr(config, option) and not tracks:
            raise ConfigError(
                f"{option}: none of the controls {list(config.controls)} is a frame-level track, as states and sound "
                "are; leave it out, or add one"
            )
    predicts = tracks if config.controls_only else tuple(stream.name for stream in running)
    return predicts, tuple(stream.name for stream in spec.streams if stream not in running)


def _input_features(config: GPTConfig, spec: TokenSpec, order: np.ndarray) -> nn.ModuleDict:
    """The features that the options ask for, by option."""
    chosen = {option: feature for option, feature in FEATURES.items() if getattr(config, option)}
    return nn.ModuleDict({option: feature(spec, order, config.width) for option, feature in chosen.items()})
