"""What every prior must satisfy: the contract of `priors/base.py`, one check per function, for any model.

How to test a new prior:

    prior = scramble(MyPrior(config, spec))            # small, with noise on all weights
    tokens, given = random_tokens(prior, 3), random_given(prior, 3, 0.3)
    check_contract(prior, tokens, given)               # any size
    check_step_computes_one_position(prior, tokens)    # sampling uses its caches
    check_normalised(tiny, tokens, given)              # only on a grid with few sequences
    check_sample_frequencies(tiny, tokens, given)      # of `tokenreel.testing.prior_sampling`

`tokens` hold every stream of the spec [B, t, h, w, q]; `given` is bool [B, L] and should differ from row to row. A
position is *free* where it is not given.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from tokenreel.priors.base import Prior, Tokens
from tokenreel.sample_random import SampleRandom
from tokenreel.testing.feeding import TOLERANCE, assert_distributions, feed, feeding, record, start, tokens_at
from tokenreel.testing.log_probs import all_sequences, assert_close, log_prob, log_prob_flat, row_of
from tokenreel.testing.prior_sampling import check_samples_independent_of_batch, check_speculative_equals_plain

REACTION = 1e-5  # nats: twenty times the rounding errors of float32, a tenth of what scrambled weights make of a token
MORE_CHANGES = range(3, 13)  # of a token, where two changes have no effect


def scramble(prior: Prior, seed: int = 0, scale: float = 0.5) -> Prior:
    """Adds noise to every parameter in place, as weights initialised to zero would hide a leak. Returns the prior, in
    evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
    return prior.eval()


def random_tokens(prior: Prior, rows: int, seed: int = 0) -> dict[str, Tensor]:
    """Tokens of every stream of the spec, uniform in their codebooks."""
    generator = torch.Generator().manual_seed(seed)
    return {
        stream.name: torch.randint(stream.codebook_size, (rows, *stream.shape), generator=generator)
        for stream in prior.spec.streams
    }


def random_given(prior: Prior, rows: int, fraction: float, seed: int = 0) -> Tensor:
    """bool [B, L]: given positions scattered over the whole order, different in each row."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, len(prior.order()), generator=generator) < fraction


def check_contract(prior: Prior, tokens: Tokens, given: Tensor, reaches: Tensor | None = None) -> None:
    """All checks that are possible at any size; `reaches` as in `check_dependencies`."""
    check_order(prior, tokens)
    check_given_not_scored(prior, tokens, given)
    check_causality(prior, tokens, given)
    check_own_token_unused(prior, tokens, given)
    check_dependencies(prior, tokens, given, reaches)
    check_read_streams_used(prior, tokens, given)
    check_start(prior, tokens, given)
    check_cached_equals_uncached(prior, tokens, given)
    check_rows_at_different_speeds(prior, tokens, given)
    check_rewind(prior, tokens, given)
    check_two_states(prior, tokens, given)
    check_unconditional_tokens(prior, tokens, given)
    check_loss(prior, tokens, given)
    check_speculative_equals_plain(prior, tokens, given)
    check_samples_independent_of_batch(prior, tokens, given)


# The order and the probabilities


def check_order(prior: Prior, tokens: Tokens) -> None:
    """The order names tokens of the predicted streams, each once, and `unflatten` is the inverse of `flatten`."""
    order = prior.order()
    assert order.dtype == torch.long, f"order: is {order.dtype}, expected int64"
    assert len(order.unique(dim=0)) == len(order), "order: a token occurs twice"
    names = {prior.spec.streams[index].name for index in order[:, 0].tolist()}
    assert names == set(prior.predicts), f"order: has tokens of {names}, but `predicts` are {prior.predicts}"
    flat = prior.flatten(tokens)
    for i, (index, t, h, w, q) in enumerate(order.tolist()):
        stream = prior.spec.streams[index]
        inside = all(0 <= at < size for at, size in zip((t, h, w, q), stream.shape, strict=True))
        assert inside, f"order: position {i} is outside of stream {stream.name!r}"
        assert torch.equal(flat[:, i], tokens[stream.name][:, t, h, w, q]), f"flatten: another token at position {i}"
    for name, indices in prior.unflatten(flat, tokens).items():
        assert torch.equal(indices, tokens[name]), f"unflatten: is not the inverse of flatten for stream {name!r}"


def check_given_not_scored(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """Log-probs are 0 where given, finite and negative elsewhere."""
    log_probs = log_prob(prior, tokens, given)
    assert (log_probs[given] == 0).all(), "log_prob: is not 0 at a given position"
    assert torch.isfinite(log_probs).all(), "log_prob: is not finite"
    assert (log_probs[~given] < 0).all(), "log_prob: is not negative at a free position"


def check_causality(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """Changing the token at a free position changes no log-prob before it."""
    for row in range(len(given)):
        effect = _effects(prior, tokens, given, row)
        effect[given[row]] = 0  # given tokens may condition earlier positions
        leak = effect.tril(-1).amax(1)  # [changed]
        assert leak.max() < TOLERANCE, (
            f"log_prob: of row {row}, position {int(leak.argmax())} reaches back by {leak.max():.1e} nats"
        )


def check_own_token_unused(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """At each free position the probabilities of all tokens sum to 1: none was computed from the token itself."""
    for row in range(len(given)):
        free = (~given[row]).nonzero().squeeze(1)
        positions = free.repeat_interleave(prior.codebook_sizes()[free])
        indices = torch.cat([torch.arange(int(size)) for size in prior.codebook_sizes()[free]])
        flat = prior.flatten(row_of(tokens, row)).repeat(len(indices), 1)
        flat[torch.arange(len(flat)), positions] = indices
        log_probs = log_prob_flat(prior, flat, tokens, given, row)[torch.arange(len(flat)), positions]
        sums = torch.zeros(len(prior.order())).index_add(0, positions, log_probs.exp().float())[free]
        wrong = free[(sums - 1).abs() > TOLERANCE].tolist()
        assert not wrong, f"log_prob: of row {row}, the probabilities at positions {wrong} depend on the token there"


def check_dependencies(prior: Prior, tokens: Tokens, given: Tensor, reaches: Tensor | None = None) -> None:
    """Every token, given or not, changes the log-prob of every later free token that the prior claims it reaches.

    `reaches`, bool [L, L], is the claim: the token at the first index influences the log-prob at the second, later one.
    By default every token influences all later ones.
    """
    length = len(prior.order())
    claimed = (torch.ones(length, length, dtype=torch.bool) if reaches is None else reaches).triu(1)
    for row in range(len(given)):
        claimed_in_row = claimed & ~given[row]
        unused = claimed_in_row & (_effects(prior, tokens, given, row) < REACTION)
        if unused.any():  # by chance, or where a unit is off for both changes
            unused &= _effects(prior, tokens, given, row, MORE_CHANGES) < REACTION
        pairs = unused.nonzero().tolist()
        assert not pairs, (
            f"log_prob: of row {row}, {len(pairs)} of {int(claimed_in_row.sum())} pairs (token, later log-prob) do not "
            f"react, among them {pairs[:5]}"
        )


def check_given_reaches_earlier(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """For priors that claim it: every given token changes some log-prob before it, if there is one."""
    for row in range(len(given)):
        free_before = (~given[row]).cumsum(0) > 0
        effect = _effects(prior, tokens, given, row).tril(-1).amax(1)
        unused = given[row] & free_before & (effect < TOLERANCE)
        positions = unused.nonzero().flatten().tolist()
        assert not unused.any(), f"log_prob: of row {row}, given positions {positions} change nothing before them"


def check_read_streams_used(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """Every stream that is read changes some log-prob of every row with free positions."""
    expected, unfinished = log_prob(prior, tokens, given), ~given.all(1)
    for name in prior.reads:
        size = prior.spec.stream(name).codebook_size
        others = [log_prob(prior, {**tokens, name: (tokens[name] + by) % size}, given) for by in (1, 2)]
        effect = torch.stack([(other - expected).abs().amax(1) for other in others]).amax(0)
        assert (effect[unfinished] > TOLERANCE).all(), f"reads: has stream {name!r}, which changes nothing"


def check_loss(prior: Prior, tokens: Tokens, given: Tensor, repeats: int = 64) -> None:
    """The training loss is the mean nats per free token, at least in expectation over its random choices."""
    if any(parameter.requires_grad for parameter in prior.parameters()):
        assert prior.loss(tokens, given).requires_grad, "loss: has no gradient"
    expected = -log_prob(prior, tokens, given).sum() / (~given).sum()
    random = SampleRandom(0, np.arange(len(given)), given.device)
    losses = torch.stack([prior.loss(tokens, given, random).detach() for _ in range(repeats)]).double()
    error = losses.std() / repeats**0.5
    assert abs(losses.mean() - expected) < TOLERANCE + 4 * error, (
        f"loss: {losses.mean():.4f} in the mean of {repeats}, but log_prob gives {expected:.4f} nats per free token"
    )


# Step by step: `start`, `step` and `rewind` against `log_prob`


def check_start(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """Rows start at their first free position with its distribution, and no free token has been read."""
    state = start(prior, tokens, given)
    first = torch.where(given.all(1), given.shape[1], (~given).int().argmax(1))
    assert torch.equal(state.position.cpu(), first), "start: state.position is not the first free position of each row"
    unfinished = first < given.shape[1]
    assert_distributions(prior, state.log_probs[unfinished], first[unfinished])
    flat = prior.flatten(tokens)
    others = torch.where(given, flat, (flat + 1) % prior.codebook_sizes())
    again = start(prior, {**tokens, **prior.unflatten(others, tokens)}, given)
    assert torch.equal(state.log_probs[unfinished], again.log_probs[unfinished]), "start: reads a free token"


def check_cached_equals_uncached(prior: Prior, tokens: Tokens, given: Tensor, widths: tuple[int, ...] = (1, 3)) -> None:
    """Tokens fed one by one or several at once get the log-probs of one teacher-forced pass."""
    expected = log_prob(prior, tokens, given)
    for width in widths:
        counts = itertools.repeat(torch.full((len(given),), width))
        assert_close(feed(prior, tokens, given, counts), expected, f"step: {width} token(s) at a time")


def check_rows_at_different_speeds(prior: Prior, tokens: Tokens, given: Tensor, seed: int = 0) -> None:
    """Rows that advance by 0 to 4 tokens a step, independently, get the log-probs of one teacher-forced pass."""
    generator = torch.Generator().manual_seed(seed)
    counts = (torch.randint(5, (len(given),), generator=generator) for _ in itertools.count())
    expected = log_prob(prior, tokens, given)
    assert_close(feed(prior, tokens, given, counts), expected, "step: rows at different speeds")


def check_rewind(prior: Prior, tokens: Tokens, given: Tensor, width: int = 4) -> None:
    """Wrong tokens that are fed and rewound have no effect; nor has feeding the whole order and rewinding it."""
    flat = prior.flatten(tokens)
    wrong = torch.where(given, flat, (flat + 1) % prior.codebook_sizes())
    state = start(prior, tokens, given)
    first, length = state.position.clone(), given.shape[1]
    for repeated in range(2):
        found = torch.zeros(given.shape)
        while (state.position < length).any():
            position = state.position.clone()
            at = position[:, None] + torch.arange(width)
            indices = torch.where(at == position[:, None], tokens_at(flat, at), tokens_at(wrong, at))
            log_probs = prior.step(state, indices, (length - position).clamp(max=width))
            record(prior, found, log_probs[:, :1], flat, given, position, torch.ones_like(position))
            prior.rewind(state, (position + 1).clamp(max=length))
        expected = log_prob(prior, tokens, given)
        expected[torch.arange(length) <= first[:, None]] = 0  # that of the first free position came from `start`
        assert_close(found, expected, f"rewind: of {'the whole order' if repeated else 'wrong tokens'}")
        prior.rewind(state, first)
        assert torch.equal(state.position, first), "rewind: state.position is not where it was rewound to"


def check_two_states(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """Two states of the same prior, fed in turn, get the log-probs of one teacher-forced pass each: guidance has two.

    What the second one is given are the first tokens of the order, as many more in each row, as in a sliding window.
    """
    rows, length = given.shape
    prefix = torch.arange(length) < (torch.arange(rows) + 1)[:, None] * length // (rows + 1)
    clips = [(tokens, given), ({name: indices.flip(0) for name, indices in tokens.items()}, prefix)]
    feeds = [feeding(prior, *clip, itertools.repeat(torch.full((rows,), 3))) for clip in clips]
    found = [next(feed) for feed in feeds]
    for _ in itertools.zip_longest(*feeds):
        pass
    for log_probs, clip in zip(found, clips, strict=True):
        assert_close(log_probs, log_prob(prior, *clip), "step: two states of one prior, fed in turn")


def check_unconditional_tokens(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """Control streams may hold unconditional tokens: where read, and where predicted if they are given."""
    streams = {name: prior.spec.stream(name) for name in prior.control_streams}
    dropped = {name: s.unconditional_token for name, s in streams.items() if s.unconditional_token is not None}
    if dropped:
        tokens = {**tokens, **{name: torch.full_like(tokens[name], token) for name, token in dropped.items()}}
        given = given | prior.given_streams(dropped.keys() & set(prior.predicts))
        check_given_not_scored(prior, tokens, given)
        check_cached_equals_uncached(prior, tokens, given, widths=(5,))


def check_step_computes_one_position(prior: Prior, tokens: Tokens, max_ratio: float = 2.0) -> None:
    """Sampling a clip, one token per step, costs at most `max_ratio` times the operations of one teacher-forced pass.

    Twice leaves room for a `start` that computes every position; recomputing a slice or a window for each token would
    need as many times as it has positions.
    """
    given = torch.zeros(1, len(prior.order()), dtype=torch.bool)
    row = row_of(tokens, 0)
    with FlopCounterMode(display=False) as teacher_forced:
        log_prob(prior, row, given)
    with FlopCounterMode(display=False) as incremental:
        feed(prior, row, given, itertools.repeat(torch.ones(1, dtype=torch.long)))
    assert teacher_forced.get_total_flops() > 0, "nothing was counted: the model multiplies no matrices"
    ratio = incremental.get_total_flops() / teacher_forced.get_total_flops()
    assert ratio <= max_ratio, f"step: sampling a clip costs {ratio:.1f} times a teacher-forced pass, over {max_ratio}"


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _packed_linear_flops(
    x: torch.Size, weight: torch.Size, *rest: object, out_shape: torch.Size, **names: object
) -> int:
    """The cost of `PackedLinear`, which torch's counter does not know."""
    return 2 * out_shape.numel() * x[-1]


# On a grid with few sequences


def check_normalised(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """The probabilities of all sequences with the given tokens sum to 1 in each row."""
    for row in range(len(given)):
        log_probs = log_prob_flat(prior, all_sequences(prior, tokens, given, row), tokens, given, row).sum(1)
        total = log_probs.double().exp().sum().item()
        assert abs(total - 1) < TOLERANCE, f"log_prob: of row {row}, all sequences have probability {total:.5f}"


def _effects(prior: Prior, tokens: Tokens, given: Tensor, row: int, changes: Sequence[int] = (1, 2)) -> Tensor:
    """[L, L]: by how many nats the log-prob at the second index changes with the token at the first one.

    The largest of several changes: a single one may by chance leave a token about as likely as it was.
    """
    flat = prior.flatten(row_of(tokens, row))
    one = torch.eye(flat.shape[1], dtype=torch.long)
    changed = torch.cat([*(flat + by * one for by in changes), flat]) % prior.codebook_sizes()
    log_probs = log_prob_flat(prior, changed, tokens, given, row)
    return (log_probs[:-1] - log_probs[-1]).abs().view(len(changes), len(one), len(one)).amax(0)
