"""Residual VQ searches stage by stage, each stage a VQ of what is left over, and is one quantizer in every process."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.errors import ConfigError
from tokenreel.tokenizers.quantizers.base import QUANTIZERS
from tokenreel.tokenizers.quantizers.rvq import RVQ, RVQConfig
from tokenreel.tokenizers.quantizers.vq import VQ, VQConfig

LATENTS = (2, 5, 3, 7, 11)  # B, D, t, h, w
CODES, STAGES = 13, 3


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(11)


def random_rvq(scale: float = 0.6) -> RVQ:
    """Each stage's vectors are `scale` times as large as those of the stage before."""
    rvq = RVQ(RVQConfig(CODES, STAGES, init="uniform"), 5).eval()
    for i, stage in enumerate(rvq.stages):
        stage.codebook.normal_(std=scale**i)
    return rvq


def rows_of(latents: Tensor) -> Tensor:
    return latents.movedim(1, -1).reshape(-1, latents.shape[1])


def test_codes_against_a_greedy_search_by_hand() -> None:
    """Row by row and code by code, in float64."""
    rvq, latents = random_rvq(), torch.randn(LATENTS)
    books = [stage.codebook[0].double().numpy() for stage in rvq.stages]
    expected, sums = [], []
    for row in rows_of(latents).double().numpy():
        left, chosen = row, []
        for book in books:
            chosen.append(min(range(CODES), key=lambda code: ((left - book[code]) ** 2).sum()))
            left = left - book[chosen[-1]]
        expected.append(chosen)
        sums.append(row - left)
    indices = rvq.encode(latents)
    assert indices.shape == (2, 3, 7, 11, STAGES)
    assert indices.view(-1, STAGES).tolist() == expected
    np.testing.assert_allclose(rows_of(rvq.decode(indices)).numpy(), np.array(sums), atol=1e-5)


def test_codes_survive_decoding() -> None:
    """Where later stages only refine; else another code may come nearer to a sum than the one that it was made of."""
    rvq = random_rvq(scale=1e-2)
    indices = torch.randint(0, CODES, (2, 3, 5, 7, STAGES))
    assert torch.equal(rvq.encode(rvq.decode(indices)), indices)


def test_each_stage_brings_the_reconstruction_nearer() -> None:
    """On vectors that it was not trained on."""
    rvq, errors = RVQ(RVQConfig(CODES, 5, init="kmeans"), 5).train(), []
    for _ in range(20):
        rvq(torch.randn(LATENTS))
    rows = torch.randn(1009, 5)
    indices = rvq.eval().encode_rows(rows)
    for stages in range(1, 6):
        near = sum(stage.decode_rows(indices[:, i : i + 1]) for i, stage in enumerate(rvq.stages[:stages]))
        errors.append(functional.mse_loss(near, rows).item())
    assert all(later < 0.9 * earlier for earlier, later in pairwise(errors))


def test_a_stage_is_a_vq_trained_on_what_is_left_over() -> None:
    """Codebooks, counts and codes of stages are those of single VQs that are handed the residuals in turn."""
    settings = {"codebook_size": CODES, "decay": 0.8, "init": "uniform"}
    rvq = RVQ(RVQConfig(**settings, codebooks=STAGES), 5).train()
    singles = [VQ(VQConfig(**settings), 5).train() for _ in range(STAGES)]
    for i, single in enumerate(singles):
        for vq in (single, rvq.stages[i]):
            vq.codebook.copy_(torch.randn(1, CODES, 5, generator=torch.Generator().manual_seed(i)))
            vq.average_sum.copy_(vq.codebook)
    for _ in range(3):
        latents = torch.randn(LATENTS)
        quantized, left = rvq(latents), latents
        for i, single in enumerate(singles):
            book = single.codebook[0].clone()  # of before it moves
            indices = single(left).indices
            left = left - functional.embedding(indices[..., 0], book).movedim(-1, 1)
            assert torch.equal(quantized.indices[..., i : i + 1], indices)
            assert torch.equal(quantized.code_counts[i], torch.bincount(indices.flatten(), minlength=CODES))
    for single, stage in zip(singles, rvq.stages, strict=True):
        torch.testing.assert_close(stage.codebook, single.codebook)


def test_gradients_pass_straight_through_and_every_stage_is_committed_to() -> None:
    """The output's gradient reaches the input as it is; stage i adds 2 (what is left after it) / numel, weighted."""
    rvq, latents = random_rvq(), torch.randn(LATENTS, requires_grad=True)
    rvq.config = RVQConfig(CODES, STAGES, commitment=0.7)
    weights, quantized = torch.randn(LATENTS), rvq(latents)
    ((quantized.latents * weights).sum() + quantized.losses["commitment"]).backward()
    left, pull, losses = latents.detach(), torch.zeros(LATENTS), 0.0
    for i, stage in enumerate(rvq.stages):
        left = left - stage.decode(quantized.indices[..., i : i + 1])
        pull += 0.7 * 2 * left / left.numel()
        losses += 0.7 * left.square().mean()
    torch.testing.assert_close(quantized.losses["commitment"].detach(), losses)
    torch.testing.assert_close(latents.grad, weights + pull)
    torch.testing.assert_close(quantized.latents.detach(), latents.detach() - left)


def test_nothing_moves_in_evaluation() -> None:
    rvq, latents = RVQ(RVQConfig(CODES, STAGES, init="kmeans", revive_below=0.5), 5), torch.randn(LATENTS)
    rvq.train()(latents)
    before = {name: tensor.clone() for name, tensor in rvq.state_dict().items()}
    rvq.eval()(latents)
    assert all(torch.equal(before[name], tensor) for name, tensor in rvq.state_dict().items())


def test_two_processes_hold_one_codebook_at_every_stage(replicas: list[dict[str, Tensor]]) -> None:
    names = [name for name in replicas[0] if name.startswith("residual.")]
    assert len(names) == 3 * 4  # stages, each with the buffers of a VQ
    for name in names:
        assert torch.equal(replicas[0][name], replicas[1][name]), name
    assert replicas[0]["residual.stages.1.codebook"].abs().max() < 100, "the code put out of reach was not revived"


def test_settings_are_read_by_name() -> None:
    section = {"type": "rvq", "codebook_size": 7, "codebooks": 3, "init": "kmeans"}
    assert QUANTIZERS.config(section) == RVQConfig(codebook_size=7, codebooks=3, init="kmeans")


@pytest.mark.parametrize("fields", [{"codebooks": 0}, {"codebook_size": 1}, {"decay": 1.0}])
def test_bad_fields_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        RVQConfig(**fields)  # type: ignore[arg-type]
