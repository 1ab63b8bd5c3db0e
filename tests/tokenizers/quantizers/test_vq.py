"""The EMA codebook follows its definition, and all processes have the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from replica_script import train_in_micro_steps

from tokenreel.errors import ConfigError
from tokenreel.tokenizers.quantizers.vq import VQ, VQConfig

LATENTS = (2, 6, 3, 5, 7)  # B, D, t, h, w


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(11)


def test_codes_survive_decoding():
    vq = VQ(VQConfig(codebook_size=13, codebooks=2), 6).eval()
    vq.codebook.normal_()
    indices = torch.randint(0, 13, (2, 3, 5, 7, 2))
    assert torch.equal(vq.encode(vq.decode(indices)), indices)


def test_slices_are_independent_quantizers():
    """LVT section 3.1: the channels are split in order, each part has a codebook of its own."""
    vq, latents = VQ(VQConfig(codebook_size=13, codebooks=2), 6).eval(), torch.randn(LATENTS)
    vq.codebook.normal_()
    for i, part in enumerate(latents.split(3, dim=1)):
        single = VQ(VQConfig(codebook_size=13), 3).eval()
        single.codebook.copy_(vq.codebook[i : i + 1])
        assert torch.equal(vq.encode(latents)[..., i : i + 1], single.encode(part))
        torch.testing.assert_close(vq(latents).latents.split(3, dim=1)[i], single(part).latents)


def test_gradients_pass_straight_through():
    """The output's gradient reaches the input unchanged; the commitment loss adds 2 (x - e) / numel, weighted."""
    vq, latents = VQ(VQConfig(codebook_size=13, commitment=0.7), 6).eval(), torch.randn(LATENTS, requires_grad=True)
    weights, quantized = torch.randn(LATENTS), vq(latents)
    ((quantized.latents * weights).sum() + quantized.losses["commitment"]).backward()
    pull = 0.7 * 2 * (latents - vq.decode(quantized.indices)).detach() / latents.numel()
    torch.testing.assert_close(latents.grad, weights + pull)


def test_moving_averages_against_numpy():
    vq = VQ(VQConfig(codebook_size=5, decay=0.9, smoothing=0.01, init="uniform"), 3).train()
    count, total, codebook = np.ones(5), vq.codebook[0].double().numpy().copy(), vq.codebook[0].double().numpy()
    for _ in range(3):
        latents = torch.randn(2, 3, 1, 5, 7)
        rows = latents.movedim(1, -1).reshape(-1, 3).double().numpy()
        indices = ((rows[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)
        chosen = np.eye(5)[indices]
        count = 0.9 * count + 0.1 * chosen.sum(0)
        total = 0.9 * total + 0.1 * chosen.T @ rows
        codebook = total / ((count + 0.01) * count.sum() / (count.sum() + 5 * 0.01))[:, None]
        quantized = vq(latents)
        assert quantized.code_counts.tolist() == [chosen.sum(0).tolist()]
    np.testing.assert_allclose(vq.codebook[0].numpy(), codebook, rtol=1e-4, atol=1e-6)


def test_nothing_changes_in_evaluation_mode():
    vq, latents = VQ(VQConfig(codebook_size=13, revive_below=0.5, init="kmeans"), 6), torch.randn(LATENTS)
    vq.train()(latents)
    before = {name: tensor.clone() for name, tensor in vq.state_dict().items()}
    vq.eval()(latents)
    assert all(torch.equal(before[name], tensor) for name, tensor in vq.state_dict().items())


def test_data_initialisation_takes_vectors_of_the_first_batch():
    vq, latents = (
        VQ(VQConfig(codebook_size=13, codebooks=2, init="data", decay=0.999999), 6).train(),
        torch.randn(LATENTS),
    )
    vq(latents)
    parts = latents.movedim(1, -1).reshape(-1, 2, 3).double()  # in float32 cdist itself errs by 1e-3
    for i in range(2):
        nearest = torch.cdist(vq.codebook[i].double(), parts[:, i]).amin(1)
        assert nearest.max() < 1e-4
        assert torch.pdist(vq.codebook[i]).min() > 1e-3, "a vector was chosen twice"


def test_kmeans_fits_the_first_batch_better_than_random_vectors():
    latents = torch.randn(LATENTS)
    errors = {}
    for init in ("data", "kmeans"):
        torch.manual_seed(7)
        vq = VQ(VQConfig(codebook_size=13, init=init), 6).train()
        vq(latents)
        errors[init] = vq.eval()(latents).losses["commitment"].item()
    assert errors["kmeans"] < 0.9 * errors["data"]


def test_a_revived_code_stays_in_use():
    """Its moving averages are reset with it: the old ones would move it back in the next step."""
    vq, latents = (
        VQ(VQConfig(codebook_size=7, init="uniform", revive_below=0.2, decay=0.5), 6).train(),
        torch.randn(LATENTS),
    )
    vq.codebook[0, 3] = vq.average_sum[0, 3] = 1e3  # out of reach
    vq.average_count[0, 3] = 1e-6
    vq(latents)
    rows = latents.movedim(1, -1).reshape(-1, 6)
    assert (vq.codebook[0, 3] - rows).norm(dim=1).min() < 1e-5, "not moved to a vector of the batch"
    moved = vq.codebook[0, 3].clone()
    quantized = vq(latents)
    assert quantized.code_counts[0, 3] > 0
    assert (vq.codebook[0, 3] - moved).norm() < 3


def test_dead_codes_are_revived():
    latents = torch.randn(LATENTS) * 0.1 + 5.0
    used = {}
    for revive_below in (0.0, 0.1):
        vq = VQ(VQConfig(codebook_size=23, init="uniform", revive_below=revive_below, decay=0.8), 6).train()
        for _ in range(40):
            counts = vq(latents).code_counts
        used[revive_below] = (counts > 0).sum().item()
    assert used[0.1] >= 20 > used[0.0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"codebook_size": 1}, "codebook_size"),
        ({"decay": 1.0}, "decay"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"revive_below": 1.5}, "revive_below"),
    ],
)
def test_invalid_fields_are_rejected(fields, words):
    with pytest.raises(ConfigError, match=words):
        VQConfig(**fields)


def test_two_processes_have_the_same_codebook_after_initialisation_and_revival(replicas):
    assert replicas[0]["alive.codebook"].abs().max() < 100, "the code put out of reach was not revived"
    for name in ("alive.codebook", "alive.average_count", "alive.average_sum"):
        assert torch.equal(replicas[0][name], replicas[1][name]), name


def test_two_processes_equal_one_with_both_batches(replicas):
    """The codebook is that of one process with the data of both, in one micro-step or, `split`, in two; what k-means
    and revival sample, too.
    """
    plain = VQ(VQConfig(codebook_size=7, init="uniform", decay=0.8), 3).train()
    plain.load_state_dict({name: replicas[0][f"start.{name}"] for name in plain.state_dict()})
    random = VQ(VQConfig(codebook_size=7, init="kmeans", decay=0.8, revive_below=0.5), 3).train()
    split = VQ(random.config, 3).train()
    for step in range(3):
        latents = torch.cat([replica["latents"][step] for replica in replicas])
        plain(latents)
        torch.manual_seed(step)
        random(latents)
        micro = [replica["latents"][step, clip] for clip in range(2) for replica in replicas]  # in the order of clips
        train_in_micro_steps(split, torch.stack(micro)[None], step)
    torch.testing.assert_close(plain.codebook, replicas[1]["plain.codebook"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(random.codebook, replicas[1]["random.codebook"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(split.codebook, replicas[1]["split.codebook"], rtol=1e-5, atol=1e-6)
