"""Adaptive input, adaptive softmax and tied weights, against sums written out token by token."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tokenreel.errors import ConfigError, DataError
from tokenreel.priors.subscale.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, Clusters, TokenRanks

SIZE, CUTOFFS, WIDTH = 23, (5, 12), 19
CLUSTERS = Clusters(SIZE, CUTOFFS, WIDTH, factor=2.5)  # clusters of 5, 7 and 11 tokens, 19, 7 and 3 wide
SHARED = {"none": (False, False), "embeddings": (True, False), "projections": (True, True)}
OWN = {  # parameters of the input: vectors, projections
    "none": (5 * 19 + 7 * 7 + 11 * 3) + (7 + 3) * 19,
    "embeddings": (7 + 3) * 19,
    "projections": 0,
}
SOFTMAX = (5 + 2) * 19 + (7 * 7 + 11 * 3) + (7 + 3) * 19
COUNTS = torch.arange(SIZE) * 7 % 17  # some equal; the most frequent tokens are 12, 7, 2, 19 and 14


class Holder(nn.Module):
    """Input and softmax of one codebook, as a prior holds them."""

    def __init__(self, tied: str = "none", fitted: bool = True) -> None:
        super().__init__()
        embeddings, projections = SHARED[tied]
        self.ranks = TokenRanks(SIZE)
        self.output = AdaptiveSoftmax(CLUSTERS, self.ranks)
        tied_to = self.output if embeddings else None
        self.input = AdaptiveEmbedding(CLUSTERS, self.ranks, tied_to, share_projections=projections)
        if fitted:
            self.ranks.fit(COUNTS)

    def forward(self, indices: Tensor) -> Tensor:
        """Both uses of tied weights: each token's vector predicts the token."""
        return self.output.nats(self.input(indices), indices)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def log_softmax(scores: list[float]) -> list[float]:
    total = math.log(sum(map(math.exp, scores)))
    return [score - total for score in scores]


def by_hand(softmax: AdaptiveSoftmax, order: list[int], hidden: Tensor) -> dict[int, float]:
    """The log-probability of each token; `order` are the tokens by rank."""
    weights = softmax.softmax.state_dict()
    head = log_softmax([dot(row, hidden) for row in weights["head.weight"]])
    found = dict(zip(order[:5], head[:5], strict=True))
    for i, indices in enumerate((order[5:12], order[12:])):
        narrow = torch.tensor([dot(row, hidden) for row in weights[f"tail.{i}.0.weight"]])
        inside = log_softmax([dot(row, narrow) for row in weights[f"tail.{i}.1.weight"]])
        found |= {token: head[5 + i] + score for token, score in zip(indices, inside, strict=True)}
    return found


def by_frequency(counts: Tensor) -> list[int]:
    return sorted(range(len(counts)), key=lambda token: (-int(counts[token]), token))


def test_ranks_are_the_indices_until_tokens_are_counted() -> None:
    ranks = TokenRanks(SIZE)
    assert ranks.rank_of.tolist() == ranks.token_at.tolist() == list(range(SIZE))


def test_frequent_tokens_rank_first_and_equal_ones_by_index() -> None:
    ranks = TokenRanks(SIZE)
    ranks.fit(COUNTS)
    assert ranks.token_at.tolist() == by_frequency(COUNTS)
    assert [ranks.token_at[rank].item() for rank in ranks.rank_of] == list(range(SIZE))


def test_counts_of_another_codebook_are_refused() -> None:
    with pytest.raises(DataError, match=r"\[11\], expected \[23\]"):
        TokenRanks(SIZE).fit(torch.ones(11))


@pytest.mark.parametrize("fitted", [False, True])
def test_log_probs_against_sums_by_hand(fitted: bool) -> None:
    holder = Holder(fitted=fitted)
    hidden = torch.randn(3, WIDTH)
    order = by_frequency(COUNTS) if fitted else list(range(SIZE))
    found = holder.output.log_probs(hidden)
    for row, vector in zip(found, hidden, strict=True):
        expected = by_hand(holder.output, order, vector)
        torch.testing.assert_close(row, torch.tensor([expected[token] for token in range(SIZE)]))


@pytest.mark.parametrize("fitted", [False, True])
def test_vectors_against_sums_by_hand(fitted: bool) -> None:
    holder = Holder(fitted=fitted)
    order = by_frequency(COUNTS) if fitted else list(range(SIZE))
    weights = holder.input.state_dict()
    found = holder.input(torch.arange(SIZE))
    torch.testing.assert_close(found[order[:5]], weights["own_vectors.0"])
    for i, indices in enumerate((order[5:12], order[12:])):
        for token, narrow in zip(indices, weights[f"own_vectors.{i + 1}"], strict=True):
            expected = torch.tensor([dot(row, narrow) for row in weights[f"own_projections.{i}"]])
            torch.testing.assert_close(found[token], expected)


def test_vectors_for_indices_of_any_shape() -> None:
    holder = Holder()
    indices = torch.randint(SIZE, (2, 3, 7))
    assert torch.equal(holder.input(indices), holder.input.table()[indices])
    assert holder.input(indices).shape == (2, 3, 7, WIDTH)


@pytest.mark.parametrize("tied", SHARED)
def test_probabilities_sum_to_one_and_match_the_loss(tied: str) -> None:
    output = Holder(tied).output
    hidden = torch.randn(3, WIDTH)
    log_probs = output.log_probs(hidden)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3))
    for row in range(3):
        nats = output.nats(hidden[row].expand(SIZE, -1), torch.arange(SIZE))
        torch.testing.assert_close(nats, -log_probs[row])


def test_batches_of_one_and_of_zero_rows() -> None:
    output = Holder().output
    assert output.nats(torch.randn(1, WIDTH), torch.tensor([0])).shape == (1,)
    assert output.nats(torch.randn(0, WIDTH), torch.empty(0, dtype=torch.long)).shape == (0,)
    assert output.log_probs(torch.randn(0, WIDTH)).shape == (0, SIZE)


@pytest.mark.parametrize("token", [-1, SIZE])
def test_tokens_out_of_the_codebook_are_refused(token: int) -> None:
    holder = Holder()
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        holder.output.nats(torch.randn(1, WIDTH), torch.tensor([token]))
    with pytest.raises(IndexError, match="out of"):
        holder.input(torch.tensor([token]))


def test_counts_determine_which_tokens_are_in_the_head() -> None:
    """A score added to the rows of the head changes the most frequent tokens and no others."""
    holder = Holder()
    hidden = torch.randn(1, WIDTH)
    before = holder.output.log_probs(hidden)[0]
    holder.output.softmax.head.weight.data[:5] += 0.3 * hidden / hidden.square().sum()
    rises = holder.output.log_probs(hidden)[0] > before
    assert rises.nonzero().flatten().tolist() == [2, 7, 12, 14, 19]


@pytest.mark.parametrize("tied", ["embeddings", "projections"])
def test_tied_is_untied_with_the_same_weights(tied: str) -> None:
    ours, untied = Holder(tied), Holder()
    untied.output.load_state_dict(ours.output.state_dict())
    weights = ours.output.softmax.state_dict()
    vectors = [weights["head.weight"][:5], weights["tail.0.1.weight"], weights["tail.1.1.weight"]]
    shared = [weights["tail.0.0.weight"].T, weights["tail.1.0.weight"].T]
    projections = list(ours.input.own_projections) if tied == "embeddings" else shared
    for parameter, weight in zip(untied.input.parameters(), [*vectors, *projections], strict=True):
        parameter.data.copy_(weight)
    indices = torch.randint(SIZE, (13,))
    torch.testing.assert_close(ours.input(indices), untied.input(indices))
    torch.testing.assert_close(ours(indices), untied(indices))


@pytest.mark.parametrize("tied", ["embeddings", "projections"])
def test_gradients_of_tied_weights_are_the_sum_of_both_uses(tied: str) -> None:
    holder = Holder(tied)
    indices = torch.arange(SIZE)
    weights = dict(holder.output.named_parameters())

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss.sum(), list(weights.values()), materialize_grads=True))

    vectors = holder.input(indices)
    hidden = vectors.detach().requires_grad_()
    as_output = gradients(holder.output.nats(hidden, indices))
    (arriving,) = torch.autograd.grad(holder.output.nats(hidden, indices).sum(), hidden)
    as_input = gradients(vectors * arriving)
    both = gradients(holder(indices))
    for name, total, one, other in zip(weights, both, as_output, as_input, strict=True):
        torch.testing.assert_close(total, one + other)
        assert one.any(), name
        assert bool(other.any()) == (tied == "projections" or not name.endswith(".0.weight")), name


@pytest.mark.parametrize("tied", SHARED)
def test_number_of_parameters(tied: str) -> None:
    with torch.device("meta"):
        holder = Holder(tied, fitted=False)
    assert size(holder.output) == SOFTMAX
    assert size(holder.input) == OWN[tied]


@pytest.mark.parametrize("tied", SHARED)
def test_a_checkpoint_holds_each_tensor_once(tied: str, tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory; ranks are restored with the weights."""
    holder, fresh = Holder(tied), Holder(tied, fitted=False)
    state = holder.state_dict()
    numbers = sum(tensor.numel() for tensor in state.values())
    assert numbers == SOFTMAX + OWN[tied] + 2 * SIZE
    save_file(state, tmp_path / "weights.safetensors")
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    indices = torch.randint(SIZE, (13,))
    assert torch.equal(fresh(indices), holder(indices))


@pytest.mark.parametrize("tied", ["embeddings", "projections"])
def test_a_copy_ties_the_copies(tied: str) -> None:
    holder = Holder(tied)
    before = holder.input.table()
    other = copy.deepcopy(holder)
    for weight in other.output.parameters():
        weight.data += 1
    other.ranks.fit(-COUNTS)
    alone = AdaptiveEmbedding(CLUSTERS, other.ranks, other.output, share_projections=tied == "projections")
    alone.load_state_dict(other.input.state_dict())
    assert torch.equal(other.input.table(), alone.table())
    assert not torch.isclose(other.input.table(), before).all(-1).any()
    assert torch.equal(holder.input.table(), before)


@pytest.mark.parametrize("tied", SHARED)
def test_moving_a_module_keeps_the_tie(tied: str) -> None:
    holder = Holder(tied)
    indices = torch.randint(SIZE, (13,))
    expected = holder(indices)
    assert holder.input(indices).dtype == torch.float32
    holder.to(torch.float64)
    assert holder.input(indices).dtype == torch.float64
    torch.testing.assert_close(holder(indices), expected)
    holder.to("meta")
    assert holder.input(indices.to("meta")).device.type == "meta"


@pytest.mark.parametrize("tied", SHARED)
def test_bfloat16_autocast_trains(tied: str) -> None:
    """Log-probabilities are float32 and sum to one as float32 does, of bfloat16 vectors too."""
    holder = Holder(tied)
    indices = torch.arange(SIZE)
    expected = holder(indices)
    with torch.autocast("cpu", torch.bfloat16):
        nats = holder(indices)
        log_probs = holder.output.log_probs(holder.input(indices).bfloat16())
    assert nats.dtype == log_probs.dtype == torch.float32
    torch.testing.assert_close(nats, expected, rtol=0.03, atol=0.03)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(SIZE))
    nats.sum().backward()
    assert all(parameter.grad is not None for parameter in holder.parameters())


def test_bfloat16_weights_still_give_float32_probabilities() -> None:
    output = Holder().output.to(torch.bfloat16)
    hidden = torch.randn(SIZE, WIDTH, dtype=torch.bfloat16)
    log_probs = output.log_probs(hidden)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(SIZE))
    torch.testing.assert_close(output.nats(hidden, torch.arange(SIZE)), -log_probs.diagonal())


def test_initial_weights_have_the_documented_deviations() -> None:
    """By the width of the cluster, so that all vectors and logits have about the same scale."""
    clusters, ranks = Clusters(1009, (499,), 128), TokenRanks(1009)
    softmax = AdaptiveSoftmax(clusters, ranks)
    untied = AdaptiveEmbedding(clusters, ranks)
    tied = AdaptiveEmbedding(clusters, ranks, tied_to=softmax)
    for vectors in (softmax.vectors(), list(untied.own_vectors)):
        deviations = torch.stack([weight.std() * weight.shape[1] ** 0.5 for weight in vectors])
        torch.testing.assert_close(deviations, torch.ones(2), rtol=0.02, atol=0)
    for projection in (*softmax.projections(), *untied.own_projections, *tied.own_projections):
        torch.testing.assert_close(projection.std().item(), (2 / (128 + 32)) ** 0.5, rtol=0.03, atol=0)


@pytest.mark.parametrize("cutoffs", [(), (0,), (-3, 5), (5, 5), (12, 5), (23,), (5, 29)])
def test_invalid_cutoffs_are_refused(cutoffs: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        Clusters(SIZE, cutoffs, WIDTH)
    assert f"cutoffs (={list(cutoffs)})" in str(error.value)
    assert "from 1 to 22" in str(error.value)


@pytest.mark.parametrize(("width", "factor"), [(15, 4.0), (19, 0.5), (19, math.nan)])
def test_clusters_without_width_are_refused(width: int, factor: float) -> None:
    with pytest.raises(ConfigError, match=rf"factor \(={factor}\).* {width} // factor\^2"):
        Clusters(SIZE, CUTOFFS, width, factor)


def test_a_tie_to_other_clusters_is_refused() -> None:
    ranks = TokenRanks(SIZE)
    softmax = AdaptiveSoftmax(replace(CLUSTERS, width=31), ranks)
    with pytest.raises(ConfigError, match=r"width=19.*width=31"):
        AdaptiveEmbedding(CLUSTERS, ranks, tied_to=softmax)


def test_shared_projections_without_a_tied_softmax_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"share_projections \(=True\) requires tied_to"):
        AdaptiveEmbedding(CLUSTERS, TokenRanks(SIZE), share_projections=True)
