"""GPT: a decoder-only transformer over the tokens of a clip, after CCVS (Le Moing et al. 2021, section 3.3).

The sequence begins with the controls of the whole clip, if it has any (`prefix.py`). Then come the tokens frame by
frame, controls before levels (`order.py`). The input at a token is the embedding of the token before it, plus that of
its position (`positions.py`), plus what options add (`inputs.py`).

B rows, P tokens of the prefix, L positions of the order, n tokens fed at once, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tokenreel.data.spec import END, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, State, Tokens, vocabulary_size
from tokenreel.priors.gpt.inputs import FEATURES
from tokenreel.priors.gpt.order import controlled_spec, frame_order
from tokenreel.priors.gpt.positions import DecomposedPositions, JointPositions
from tokenreel.priors.gpt.prefix import Prefix
from tokenreel.priors.layers.cached_transformer import CachedTransformer, PackedLinear
from tokenreel.priors.layers.tokens import TokenEmbedding, TokenOutput
from tokenreel.priors.layers.transformer import Transformer
from tokenreel.sample_random import SampleRandom


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the transformer, and what it is conditioned on; everything else follows from the token spec."""

    type: ClassVar[str] = "gpt"
    depth: int  # blocks
    width: int  # D
    heads: int  # of attention
    dropout: float = 0.0  # of the embeddings and of both outputs of each block, not of attention weights
    previous_step: bool = False  # input: the token one step before at the target's location; not in CCVS
    latest_controls: bool = False  # input: the latest tokens of frame-level controls; not in CCVS
    end_frame_input: bool = False  # input: the end frame's token at the target's location; not in CCVS
    controls: tuple[str, ...] = ()  # control streams; "end" is the end frame, derived from the level's tokens
    controls_only: bool = False  # a control prior: predict the frame-level controls, and no level
    positions: Literal["decomposed", "joint"] = "decomposed"  # joint: one vector per position (CCVS table 2)

    def __post_init__(self) -> None:
        if min(self.depth, self.width, self.heads) < 1 or self.width % self.heads:
            raise ConfigError(
                f"depth (={self.depth}), width (={self.width}) and heads (={self.heads}) must be at least 1, "
                "and width a multiple of heads"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout (={self.dropout}) must be at least 0 and below 1")
        if self.end_frame_input and END not in self.controls:
            raise ConfigError(f"end_frame_input: controls (={list(self.controls)}) must include the end frame, {END!r}")
        if self.controls_only and END in self.controls:
            raise ConfigError(
                f"controls_only: controls (={list(self.controls)}) must not include {END!r}, which conditions frames"
            )


@dataclass
class GPTState(State):
    """Slots 0 to P - 1 of the cache hold the prefix, slot P the start vector, slot P + i + 1 the token at position i.

    Nothing attends to the order's last token, so its slot takes writes to be discarded.
    """

    cache: CachedTransformer
    positions: Tensor  # [L, D]
    output: PackedLinear
    indices: Tensor  # int64 [B, L], the tokens fed so far; the others have no meaning
    tokens: Tokens  # that `start` was given, for the input features


class GPT(Prior):
    """p(token | all tokens before it in the order), for every level and every frame-level control.

    Controls of one step (class, end frame) are read: they come first and are not predicted. With `controls_only` it is
    a control prior: it predicts the frame-level controls and no level.

    `spec` may hold further control streams; `Prior.spec` has only those of `controls`. Raises ConfigError where one is
    missing. Sampling runs in the precision of the weights: `prior.to(torch.bfloat16)` halves the memory read per token.
    """

    config: GPTConfig
    config_class = GPTConfig

    def __init__(self, config: GPTConfig, spec: TokenSpec) -> None:
        if spec.time == "window":
            raise ConfigError(
                "a GPT predicts frames in order, but these tokens depend on later frames (time: window): use "
                "pixelcnn-top and pixelcnn-bottom"
            )
        spec = controlled_spec(spec, config.controls)
        super().__init__(config, spec, *_predicted_and_read(config, spec))
        order, first_frame = frame_order(spec, self.predicts)
        self._order, width = torch.from_numpy(order), config.width
        joint = config.positions == "joint"
        self.position_embedding = (
            JointPositions(len(order), width) if joint else DecomposedPositions(order, first_frame, width)
        )
        streams, codebook_index = [stream for stream, _ in self.codebooks()], self.codebook_index()
        self.token_embedding = TokenEmbedding([vocabulary_size(stream) for stream in streams], codebook_index, width)
        self.inputs = nn.ModuleDict(  # by option
            {option: feature(self, width) for option, feature in FEATURES.items() if getattr(config, option)}
        )
        self.prefix = Prefix(spec, self.reads, order, width) if self.reads else None
        self.start_vector = nn.Parameter(torch.empty(width))
        self.transformer = Transformer(config.depth, width, config.heads, config.dropout)
        self.output = TokenOutput([stream.codebook_size for stream in streams], codebook_index, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """GPT-2's initialisation: normal weights, zero biases."""
        residual = 0.02 / (2 * self.config.depth) ** 0.5  # so that the sum over all blocks has the scale of one
        deviations = {"out": residual, "fc2": residual}
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

    def loss(self, tokens: Tokens, given: Tensor, random: SampleRandom | None = None) -> Tensor:
        return self._nats(tokens, given, random).sum() / (~given).sum()

    def _nats(self, tokens: Tokens, given: Tensor, random: SampleRandom | None) -> Tensor:
        """Negative log-probabilities [B, L], 0 where given."""
        flat = self.flatten(tokens)
        x = self.transformer(self._first_inputs(tokens, flat, flat.shape[1], self.position_embedding()), random)
        targets = flat.masked_fill(given, 0)  # an unconditional token, beyond the codebook, is always given
        nats = self.output.nats(x[:, self._prefix_length :], targets)
        return nats.masked_fill(given, 0)

    @property
    def _prefix_length(self) -> int:
        """P, the number of vectors in the prefix."""
        return self.prefix.length if self.prefix else 0

    def _first_inputs(self, tokens: Tokens, flat: Tensor, n: int, positions: Tensor) -> Tensor:
        """[B, P + n, D]: the prefix, the start vector and the first n - 1 tokens of `flat` [B, L], which predict the
        first n.
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
        target = position.clamp(max=length - 1)  # where everything is given, any
        cache = CachedTransformer(self.transformer, rows, prefix + length + 1)
        positions, output = self.position_embedding(), PackedLinear(self.output.linear.weight)
        indices, n = self.flatten(tokens).masked_fill(~given, 0), int(target.max()) + 1
        x = self._first_inputs(tokens, indices, n, positions)
        x = cache.extend(x, torch.arange(prefix + n, device=indices.device)[None])
        x = x[torch.arange(rows, device=x.device), prefix + target]
        return GPTState(position, self.output.log_probs(output(x), target), cache, positions, output, indices, tokens)

    @torch.no_grad()
    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, GPTState)
        offsets = torch.arange(indices.shape[1], device=indices.device)
        last = len(state.positions) - 1
        at = (state.position[:, None] + offsets).clamp(max=last)
        target = (at + 1).clamp(max=last)
        indices = indices.where(offsets < count[:, None], 0)  # noise may be beyond the codebook
        x = self.token_embedding(indices, at) + state.positions[at]
        state.indices.scatter_(1, at, indices)  # beyond the end all write to the last token, which no feature reads
        x = self._with_features(x, state.indices, state.tokens, target)
        x = state.cache.extend(x, self._prefix_length + at + 1)
        state.position = state.position + count
        return self.output.log_probs(state.output(x), target)

    def rewind(self, state: State, position: Tensor) -> None:
        state.position = position


def _predicted_and_read(config: GPTConfig, spec: TokenSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the streams that are predicted, and of those that are read.

    Raises ConfigError where an option needs frame-level controls and there are none.
    """
    running = [stream for stream in spec.streams if spec.runs_with_video(stream)]
    controls = tuple(stream.name for stream in running if stream.role == "control")
    for option in ("controls_only", "latest_controls"):
        if getattr(config, option) and not controls:
            raise ConfigError(
                f"{option}: controls (={list(config.controls)}) must include a frame-level one, as states and sound are"
            )
    predicts = controls if config.controls_only else tuple(stream.name for stream in running)
    return predicts, tuple(stream.name for stream in spec.streams if stream not in running)
