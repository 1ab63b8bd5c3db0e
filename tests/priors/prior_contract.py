"""The truths that every prior keeps, one function each. They know the contract of `priors/base.py` and no model.

A test builds a small prior, opens every path through it with `scramble`, makes codes with `random_tokens`, and calls
`check_contract`; on a grid small enough to write down every sequence, also `check_normalised` and
`check_sample_frequencies`.

`tokens` hold every stream of the spec [B, t, h, w, q], `given` is bool [B, L]. Let the rows of `given` differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from tokenreel.priors.base import Prior, State, Tokens
from tokenreel.priors.sampling.video import SamplingConfig, sample


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _packed_layer_cost(x: torch.Size, weight: torch.Size, *rest: object, out_shape: torch.Size, **names: object) -> int:
    """Packed layers are no operation that torch knows the cost of."""
    return 2 * out_shape.numel() * x[-1]


TOLERANCE = 1e-4  # nats: float32 sums in another order; a leak through scrambled weights is far larger


def scramble(prior: Prior, seed: int = 0, scale: float = 0.5) -> Prior:
    """Adds noise to every parameter in place, as weights that start at zero would hide a leak; returns it for eval."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)
    return prior.eval()


def random_tokens(prior: Prior, rows: int, seed: int = 0) -> dict[str, Tensor]:
    """Codes of every stream of the spec, each uniform in its codebook."""
    generator = torch.Generator().manual_seed(seed)
    return {
        stream.name: torch.randint(stream.codebook_size, (rows, *stream.shape), generator=generator)
        for stream in prior.spec.streams
    }


def random_given(prior: Prior, rows: int, share: float, seed: int = 0) -> Tensor:
    """bool [B, L]: scattered over the whole order, different in each row."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, len(prior.order()), generator=generator) < share


def check_contract(prior: Prior, tokens: Tokens, given: Tensor, sees: Tensor | None = None) -> None:
    """Every truth that can be checked at any size; `sees` as in `check_converse`."""
    check_order(prior, tokens)
    check_given_costs_nothing(prior, tokens, given)
    check_causality(prior, tokens, given)
    check_own_code_unseen(prior, tokens, given)
    check_converse(prior, tokens, given, sees)
    check_start(prior, tokens, given)
    check_cached_equals_uncached(prior, tokens, given)
    check_rows_apart(prior, tokens, given)
    check_rewind(prior, tokens, given)
    check_loss(prior, tokens, given)
    check_drafted_equals_plain(prior, tokens, given)
    check_rows_sampled_alone(prior, tokens, given)


def check_order(prior: Prior, tokens: Tokens) -> None:
    """The order names codes of predicted streams, each once, and `unflatten` undoes `flatten`."""
    order = prior.order()
    assert order.dtype == torch.long
    assert len(order.unique(dim=0)) == len(order), "a code comes twice"
    assert {prior.spec.streams[index].name for index in order[:, 0].tolist()} == set(prior.predicts)
    flat = prior.flatten(tokens)
    for i, (index, t, h, w, q) in enumerate(order.tolist()):
        stream = prior.spec.streams[index]
        assert all(0 <= at < size for at, size in zip((t, h, w, q), stream.shape, strict=True))
        assert torch.equal(flat[:, i], tokens[stream.name][:, t, h, w, q])
    for name, indices in prior.unflatten(flat, tokens).items():
        assert torch.equal(indices, tokens[name])


def check_given_costs_nothing(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """Log-probs are 0 where given, finite and negative elsewhere."""
    log_probs = _log_prob(prior, tokens, given)
    assert (log_probs[given] == 0).all()
    assert torch.isfinite(log_probs).all()
    assert (log_probs[~given] < 0).all()


def check_causality(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """Changing the code at a position that is not given changes no log-prob before it."""
    for row in range(len(given)):
        effect = _effects(prior, tokens, given, row)
        effect[given[row]] = 0  # given codes may condition what comes before them
        leak = effect.tril(-1).amax(1)  # [changed]
        assert leak.max() < TOLERANCE, f"row {row}: position {int(leak.argmax())} reaches back by {leak.max():.1e} nats"


def check_own_code_unseen(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """At each position the probabilities of all its codes sum to 1: none of them was computed from the code itself."""
    for row in range(len(given)):
        free = (~given[row]).nonzero().squeeze(1)
        positions = free.repeat_interleave(prior.codebook_sizes()[free])
        indices = torch.cat([torch.arange(int(size)) for size in prior.codebook_sizes()[free]])
        flat = prior.flatten(_row(tokens, row)).repeat(len(indices), 1)
        flat[torch.arange(len(flat)), positions] = indices
        log_probs = _log_prob_flat(prior, flat, tokens, given, row)[torch.arange(len(flat)), positions]
        sums = torch.zeros(len(prior.order())).index_add(0, positions, log_probs.exp().float())[free]
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=TOLERANCE, rtol=0)


def check_converse(prior: Prior, tokens: Tokens, given: Tensor, sees: Tensor | None = None) -> None:
    """Every code that the prior claims to see, given or not, changes some log-prob after it.

    `sees` is the claim, bool [L, L]: the code at the first index is seen by the second, later one; left out: all are.
    """
    length = len(prior.order())
    claimed = (torch.ones(length, length, dtype=torch.bool) if sees is None else sees).triu(1)
    for row in range(len(given)):
        claimed_here = claimed & ~given[row]
        reach = _effects(prior, tokens, given, row).masked_fill(~claimed_here, 0).amax(1)
        blind = claimed_here.any(1) & (reach < TOLERANCE)
        assert not blind.any(), f"row {row}: positions {blind.nonzero().flatten().tolist()} change nothing after them"


def check_given_seen_before(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """For priors that say so: every given code changes some log-prob before it, where there is one."""
    for row in range(len(given)):
        before = (~given[row]).cumsum(0) > 0
        reach = _effects(prior, tokens, given, row).tril(-1).amax(1)
        blind = given[row] & before & (reach < TOLERANCE)
        assert not blind.any(), f"row {row}: given positions {blind.nonzero().flatten().tolist()} reach nothing before"


def check_start(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """Rows start at their first free position with its distribution, and no code that is not given has been read."""
    state = _start(prior, tokens, given)
    first = torch.where(given.all(1), given.shape[1], (~given).int().argmax(1))
    assert torch.equal(state.position.cpu(), first)
    free = first < given.shape[1]
    assert_distributions(prior, state.log_probs[free], first[free])
    flat = prior.flatten(tokens)
    others = torch.where(given, flat, (flat + 1) % prior.codebook_sizes())
    again = _start(prior, {**tokens, **prior.unflatten(others, tokens)}, given)
    assert torch.equal(state.log_probs[free], again.log_probs[free])


def check_cached_equals_uncached(prior: Prior, tokens: Tokens, given: Tensor, widths: tuple[int, ...] = (1, 3)) -> None:
    """Codes fed one by one or several at once get the log-probs of one teacher-forced pass."""
    expected = _log_prob(prior, tokens, given)
    for width in widths:
        steps = itertools.repeat(torch.full((len(given),), width))
        torch.testing.assert_close(_walk(prior, tokens, given, steps), expected, atol=TOLERANCE, rtol=0)


def check_rows_apart(prior: Prior, tokens: Tokens, given: Tensor, seed: int = 0) -> None:
    """Rows that advance by 0 to 4 codes a step, each at its own speed, get the same log-probs."""
    generator = torch.Generator().manual_seed(seed)
    steps = (torch.randint(5, (len(given),), generator=generator) for _ in itertools.count())
    expected = _log_prob(prior, tokens, given)
    torch.testing.assert_close(_walk(prior, tokens, given, steps), expected, atol=TOLERANCE, rtol=0)


def check_rewind(prior: Prior, tokens: Tokens, given: Tensor, width: int = 4) -> None:
    """Wrong codes fed and taken back leave no trace; nor does the whole way, walked once and taken back."""
    flat = prior.flatten(tokens)
    wrong = torch.where(given, flat, (flat + 1) % prior.codebook_sizes())
    state = _start(prior, tokens, given)
    first, length = state.position.clone(), given.shape[1]
    for taken_back in range(2):
        found = torch.zeros(given.shape)
        while (state.position < length).any():
            position = state.position.clone()
            lines = position[:, None] + torch.arange(width)
            indices = torch.where(lines == position[:, None], _at(flat, lines), _at(wrong, lines))
            log_probs = prior.step(state, indices, (length - position).clamp(max=width))
            _record(found, log_probs[:, :1], flat, given, position, torch.ones_like(position))
            prior.rewind(state, (position + 1).clamp(max=length))
        expected = _log_prob(prior, tokens, given)
        expected[torch.arange(length) <= first[:, None]] = 0  # the first free position's came from `start`
        message = "after taking back the whole order" if taken_back else "after taking back wrong codes"
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0, msg=lambda m, text=message: f"{text}: {m}")
        prior.rewind(state, first)
        assert torch.equal(state.position, first)


def check_step_computes_one_position(prior: Prior, tokens: Tokens, most: float = 2.0) -> None:
    """Multiply-adds counted: a whole generation, one code a step, costs at most `most` times one teacher-forced pass.

    Twice leaves room for a `start` that looks at every position; recomputing a slice or a window for each code would
    cost as many times as it has positions.
    """
    given = torch.zeros(1, len(prior.order()), dtype=torch.bool)
    row = _row(tokens, 0)
    with FlopCounterMode(display=False) as teacher_forced:
        _log_prob(prior, row, given)
    with FlopCounterMode(display=False) as incremental:
        _walk(prior, row, given, itertools.repeat(torch.ones(1, dtype=torch.long)))
    assert teacher_forced.get_total_flops() > 0, "nothing was counted: the model multiplies no matrices"
    assert incremental.get_total_flops() <= most * teacher_forced.get_total_flops()


def check_loss(prior: Prior, tokens: Tokens, given: Tensor, draws: int = 64) -> None:
    """The training loss is the mean nats of a free code, at least on average over its own random draws."""
    expected = -_log_prob(prior, tokens, given).sum() / (~given).sum()
    generator = torch.Generator().manual_seed(0)
    losses = torch.stack([prior.loss(tokens, given, generator).detach() for _ in range(draws)]).double()
    error = losses.std() / draws**0.5
    assert abs(losses.mean() - expected) < TOLERANCE + 4 * error


def check_drafted_equals_plain(prior: Prior, tokens: Tokens, given: Tensor, drafts: tuple[int, ...] = (1, 5)) -> None:
    """Drafted sampling gives plain sampling's codes in no more forwards, and reports their log-probs truly."""
    samples = torch.arange(len(given))
    plain = sample(prior, tokens, given, SamplingConfig(), seed=7, samples=samples)
    expected = prior.unflatten(-_log_prob(prior, {**tokens, **plain.tokens}, given))
    for speculate in drafts:
        drafted = sample(prior, tokens, given, SamplingConfig(speculate=speculate), seed=7, samples=samples)
        for name in prior.predicts:
            assert torch.equal(drafted.tokens[name], plain.tokens[name])
            torch.testing.assert_close(drafted.nats[name], expected[name], atol=TOLERANCE, rtol=0)
        assert drafted.tokens_sampled == plain.tokens_sampled == int((~given).sum())
        assert drafted.forwards <= plain.forwards


def check_rows_sampled_alone(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """A sample's codes depend on its own id, not on the batch it is drawn in."""
    together = sample(prior, tokens, given, SamplingConfig(), seed=3, samples=torch.arange(len(given)) + 11)
    for row in range(len(given)):
        alone = sample(
            prior, _row(tokens, row), given[row : row + 1], SamplingConfig(), seed=3, samples=torch.tensor([row + 11])
        )
        for name in prior.predicts:
            assert torch.equal(alone.tokens[name][0], together.tokens[name][row])


def check_normalised(prior: Prior, tokens: Tokens, given: Tensor) -> None:
    """On a grid small enough, the probabilities of all continuations of what is given sum to 1 in each row."""
    for row in range(len(given)):
        log_probs = _log_prob_flat(prior, _all_sequences(prior, tokens, given, row), tokens, given, row).sum(1)
        assert abs(log_probs.double().exp().sum().item() - 1) < TOLERANCE


def check_sample_frequencies(prior: Prior, tokens: Tokens, given: Tensor, rows: int = 4096, speculate: int = 0) -> None:
    """Sequences are drawn as often as the prior's own probabilities say (chi-square, row 0 of what is given)."""
    sequences = _all_sequences(prior, tokens, given, 0)
    expected = rows * _log_prob_flat(prior, sequences, tokens, given, 0).double().sum(1).exp()
    repeated = {name: indices[:1].expand(rows, *indices.shape[1:]) for name, indices in tokens.items()}
    drawn = sample(
        prior,
        repeated,
        given[:1].expand(rows, -1),
        SamplingConfig(speculate=speculate),
        seed=5,
        samples=torch.arange(rows),
    )
    both = torch.cat([sequences, prior.flatten({**repeated, **drawn.tokens})])
    unique, inverse = both.unique(dim=0, return_inverse=True)
    assert len(unique) == len(sequences), "a given code was changed"
    found = torch.bincount(inverse[len(sequences) :], minlength=len(unique))[inverse[: len(sequences)]].double()
    rare = expected < 5  # one cell together, as the chi-square approximation wants
    expected = torch.cat([expected[~rare], expected[rare].sum()[None].clamp(min=1e-9)])
    found = torch.cat([found[~rare], found[rare].sum()[None]])
    freedom = len(found) - 1
    assert freedom >= 2, "the prior is too certain for this check"
    statistic = ((found - expected) ** 2 / expected).sum().item()
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def assert_distributions(prior: Prior, log_probs: Tensor, positions: Tensor) -> None:
    """log_probs [B, K] are distributions over the codebooks at `positions` [B], -inf beyond them."""
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(len(log_probs)).to(log_probs), atol=TOLERANCE, rtol=0)
    beyond = torch.arange(log_probs.shape[1]) >= prior.codebook_sizes()[positions.cpu()][:, None]
    assert (log_probs.cpu()[beyond] == -torch.inf).all()


def _row(tokens: Tokens, row: int) -> dict[str, Tensor]:
    return {name: indices[row : row + 1] for name, indices in tokens.items()}


def _log_prob(prior: Prior, tokens: Tokens, given: Tensor) -> Tensor:
    with torch.no_grad():
        return prior.log_prob(tokens, given)


def _log_prob_flat(prior: Prior, flat: Tensor, tokens: Tokens, given: Tensor, row: int) -> Tensor:
    """Log-probs [n, L] of many sequences `flat` [n, L] that share what is given in one row."""
    shared = {name: indices[row : row + 1].expand(len(flat), *indices.shape[1:]) for name, indices in tokens.items()}
    return _log_prob(prior, {**shared, **prior.unflatten(flat, shared)}, given[row].expand(len(flat), -1))


def _effects(prior: Prior, tokens: Tokens, given: Tensor, row: int) -> Tensor:
    """[L, L]: by how many nats the log-prob at the second index moves when the code at the first one changes.

    The larger of two changes: a single one may by chance leave a code about as likely as it was.
    """
    flat = prior.flatten(_row(tokens, row))
    one = torch.eye(flat.shape[1], dtype=torch.long)
    changed = torch.cat([flat + one, flat + 2 * one, flat]) % prior.codebook_sizes()
    log_probs = _log_prob_flat(prior, changed, tokens, given, row)
    return (log_probs[:-1] - log_probs[-1]).abs().view(2, len(one), len(one)).amax(0)


def _all_sequences(prior: Prior, tokens: Tokens, given: Tensor, row: int) -> Tensor:
    """int64 [n, L]: what is given in the row, with every choice of the codes that are not."""
    fixed, sizes = prior.flatten(_row(tokens, row))[0], prior.codebook_sizes()
    choices = [[int(c)] if g else range(int(k)) for c, g, k in zip(fixed, given[row], sizes, strict=True)]
    return torch.tensor(list(itertools.product(*choices)))


def _start(prior: Prior, tokens: Tokens, given: Tensor) -> State:
    with torch.no_grad():
        return prior.start(tokens, given)


def _walk(prior: Prior, tokens: Tokens, given: Tensor, steps: Iterator[Tensor]) -> Tensor:
    """Log-probs [B, L] of `tokens` by feeding them, in each round as many a row as `steps` says (at least 0)."""
    flat, state = prior.flatten(tokens), _start(prior, tokens, given)
    found = torch.zeros(given.shape)
    _record(found, state.log_probs[:, None], flat, given, state.position - 1, torch.ones_like(state.position))
    noise = torch.Generator().manual_seed(1)
    while (state.position < given.shape[1]).any():
        wanted, position = next(steps), state.position.clone()
        count = torch.minimum(wanted, given.shape[1] - position)
        lines = torch.arange(max(int(wanted.max()), 1))
        rubbish = _rubbish(prior, (len(flat), len(lines)), noise)
        indices = torch.where(lines < count[:, None], _at(flat, position[:, None] + lines), rubbish)
        with torch.no_grad():
            log_probs = prior.step(state, indices, count)
        assert torch.equal(state.position, position + count)
        _record(found, log_probs, flat, given, position, count)
    return found


def _rubbish(prior: Prior, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Half of them valid in every codebook, as a stale code may be, half any int64, as uninitialised memory may be."""
    valid = torch.randint(int(prior.codebook_sizes().min()), shape, generator=generator)
    limits = torch.iinfo(torch.long)
    anything = torch.randint(limits.min, limits.max, shape, generator=generator)
    return valid.where(torch.rand(shape, generator=generator) < 0.5, anything)


def _at(flat: Tensor, positions: Tensor) -> Tensor:
    return flat.gather(1, positions.clamp(max=flat.shape[1] - 1))


def _record(found: Tensor, log_probs: Tensor, flat: Tensor, given: Tensor, position: Tensor, count: Tensor) -> None:
    """Writes what log_probs [B, n, K] say of the codes after each of the `count` fed from `position` on."""
    for row in range(len(found)):
        for i in range(int(count[row])):
            after = int(position[row]) + i + 1
            if after < found.shape[1] and not given[row, after]:
                found[row, after] = log_probs[row, i, flat[row, after]]
