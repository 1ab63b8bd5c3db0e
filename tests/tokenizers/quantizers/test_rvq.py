"""Residual VQ: each stage is a VQ of the residual, and all processes have the same codebooks."""

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
    codebooks = [stage.codebook[0].double().numpy() for stage in rvq.stages]
    expected, sums = [], []
    for row in rows_of(latents).double().numpy():
        residual, chosen = row, []
        for codebook in codebooks:
            chosen.append(min(range(CODES), key=lambda code: ((residual - codebook[code]) ** 2).sum()))
            residual = residual - codebook[chosen[-1]]
        expected.append(chosen)
        sums.append(row - residual)
    indices = rvq.encode(latents)
    assert indices.shape == (2, 3, 7, 11, STAGES)
    assert indices.view(-1, STAGES).tolist() == expected
    np.testing.assert_allclose(rows_of(rvq.decode(indices)).numpy(), np.array(sums), atol=1e-5)


def test_codes_survive_decoding() -> None:
    """If later stages only refine; else another code may be nearer to a sum than the one that it was made of."""
    rvq = random_rvq(scale=1e-2)
    indices = torch.randint(0, CODES, (2, 3, 5, 7, STAGES))
    assert torch.equal(rvq.encode(rvq.decode(indices)), indices)


def test_each_stage_reduces_the_error() -> None:
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


def test_a_stage_is_a_vq_trained_on_the_residual() -> None:
    """Codebooks, counts and indices of stages are those of single VQs on the residuals in turn."""
    settings = {"codebook_size": CODES, "decay": 0.8, "init": "uniform", "revive_below": 0.0}
    rvq = RVQ(RVQConfig(**settings, codebooks=STAGES), 5).train()
    singles = [VQ(VQConfig(**settings), 5).train() for _ in range(STAGES)]
    for i, single in enumerate(singles):
        for vq in (single, rvq.stages[i]):
            vq.codebook.copy_(torch.randn(1, CODES, 5, generator=torch.Generator().manual_seed(i)))
            vq.average_sum.copy_(vq.codebook)
    for _ in range(3):
        latents = torch.randn(LATENTS)
        quantized, residual = rvq(latents), latents
        for i, single in enumerate(singles):
            codebook = single.codebook[0].clone()  # before its update
            indices = single(residual).indices
            residual = residual - functional.embedding(indices[..., 0], codebook).movedim(-1, 1)
            assert torch.equal(quantized.indices[..., i : i + 1], indices)
            assert torch.equal(quantized.code_counts[i], torch.bincount(indices.flatten(), minlength=CODES))
    for single, stage in zip(singles, rvq.stages, strict=True):
        torch.testing.assert_close(stage.codebook, single.codebook)


def test_gradients_pass_straight_through_and_every_stage_is_committed_to() -> None:
    """The output's gradient reaches the input unchanged; stage i adds 2 residual / numel, weighted."""
    rvq, latents = random_rvq(), torch.randn(LATENTS, requires_grad=True)
    rvq.config = RVQConfig(CODES, STAGES, commitment=0.7)
    weights, quantized = torch.randn(LATENTS), rvq(latents)
    ((quantized.latents * weights).sum() + quantized.losses["commitment"]).backward()
    residual, pull, losses = latents.detach(), torch.zeros(LATENTS), 0.0
    for i, stage in enumerate(rvq.stages):
        residual = residual - stage.decode(quantized.indices[..., i : i + 1])
        pull += 0.7 * 2 * residual / residual.numel()
        losses += 0.7 * residual.square().mean()
    torch.testing.assert_close(quantized.losses["commitment"].detach(), losses)
    torch.testing.assert_close(latents.grad, weights + pull)
    torch.testing.assert_close(quantized.latents.detach(), latents.detach() - residual)


def test_nothing_changes_in_evaluation_mode() -> None:
    rvq, latents = RVQ(RVQConfig(CODES, STAGES, init="kmeans", revive_below=0.5), 5), torch.randn(LATENTS)
    rvq.train()(latents)
    before = {name: tensor.clone() for name, tensor in rvq.state_dict().items()}
    rvq.eval()(latents)
    assert all(torch.equal(before[name], tensor) for name, tensor in rvq.state_dict().items())


def test_two_processes_have_the_same_codebook_at_every_stage(replicas: list[dict[str, Tensor]]) -> None:
    names = [name for name in replicas[0] if name.startswith("residual.")]
    assert len(names) == 3 * 4  # stages, each with the buffers of a VQ
    for name in names:
        assert torch.equal(replicas[0][name], replicas[1][name]), name
    assert replicas[0]["residual.stages.1.codebook"].abs().max() < 100, "the code put out of reach was not revived"


def test_settings_are_read_by_name() -> None:
    section = {"type": "rvq", "codebook_size": 7, "codebooks": 3, "init": "kmeans"}
    assert QUANTIZERS.config(section) == RVQConfig(codebook_size=7, codebooks=3, init="kmeans")


@pytest.mark.parametrize("fields", [{"codebooks": 0}, {"codebook_size": 1}, {"decay": 1.0}])
def test_invalid_fields_are_rejected(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        RVQConfig(**fields)  # type: ignore[arg-type]
