"""Each update changes its own networks by the configured losses; a run is a function of its configuration."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toy_adversarial import CLIPS, FRAMES, HEIGHT, SECTION, WIDTH, ToyAdversarial, toy_objective, train_toy

from tokenreel.config import to_mapping
from tokenreel.decoders.losses.adversarial import adversarial_loss, gradient_penalty
from tokenreel.decoders.losses.perceptual import TABLETOP, PerceptualNetwork, perceptual_loss
from tokenreel.errors import ConfigError
from tokenreel.pipelines.commands import train_tokenizer
from tokenreel.pipelines.requests.training import TrainTokenizerRequest
from tokenreel.pipelines.training.adversarial_objective import AdversarialTrainingConfig, ClipBatch, tokenizer_training
from tokenreel.pipelines.training.run_folder import read_metrics
from tokenreel.pipelines.training.tokenizer_objective import TokenizerTrainingConfig
from tokenreel.sample_random import SampleRandom
from tokenreel.tokenizers.base import Reconstruction, VideoTokenizer

SCRIPT = Path(__file__).with_name("toy_adversarial.py")
ROWS = np.arange(5)


def section(**changes: Any) -> dict[str, Any]:
    return {**SECTION, **changes}


def losses_of(objective: ToyAdversarial, batch: ClipBatch, update: str) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = objective.losses(update, batch, SampleRandom(0, ROWS, torch.device("cpu")))
    return losses


def changed_networks(objective: ToyAdversarial, batch: ClipBatch, update: str) -> set[str]:
    """Names of the networks that one step of an update changes."""
    before = {name: [p.clone() for p in network.parameters()] for name, network in objective.networks.items()}
    optimizer = objective.optimizers()[update]
    optimizer.zero_grad()
    torch.stack(list(losses_of(objective, batch, update).values())).sum().backward()
    optimizer.step()
    return {
        name
        for name, network in objective.networks.items()
        if any(not torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True))
    }


def test_each_update_changes_all_parameters_of_its_own_networks_and_no_others() -> None:
    objective = toy_objective()
    objective.begin_step(4)
    batch = objective.batch(ROWS, ROWS)
    assert changed_networks(objective, batch, "tokenizer") == {"tokenizer"}
    discriminators = [objective.networks["image_discriminator"], objective.networks["temporal_discriminator"]]
    assert all(parameter.grad is None for network in discriminators for parameter in network.parameters())
    assert changed_networks(objective, batch, "discriminators") == {"image_discriminator", "temporal_discriminator"}
    assert all(parameter.grad is not None for network in discriminators for parameter in network.parameters())


def test_discriminators_get_the_frames_that_the_tokenizer_decoded() -> None:
    objective = toy_objective()
    objective.begin_step(5)
    batch = objective.batch(ROWS, ROWS)
    with torch.no_grad():
        decoded = objective.tokenizer.eval()(batch.video).video
    objective.tokenizer.train()
    losses_of(objective, batch, "tokenizer")
    sequence, true_sequence = batch.frame_pairs["temporal_discriminator"]
    images, true = batch.frame_pairs["image_discriminator"]
    torch.testing.assert_close(sequence, decoded)
    assert torch.equal(true_sequence, batch.video)
    assert images.shape == (len(ROWS) * FRAMES, 3, HEIGHT, WIDTH)
    assert torch.equal(images[FRAMES + 1], sequence[1, :, 1])
    assert torch.equal(true[2 * FRAMES], batch.video[2, :, 0])
    assert not images.requires_grad


def test_discriminators_get_the_tokenizers_own_images_and_sequence_if_it_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective = toy_objective(section(adversarial={}))
    batch = objective.batch(ROWS, ROWS)
    images, sequence = torch.randn(2, 7, 3, HEIGHT, WIDTH).unbind(), torch.randn(2, 5, 3, 2, HEIGHT, WIDTH).unbind()
    own = objective.tokenizer(batch.video)
    own = Reconstruction(own.video, own.losses, {}, tuple(images), tuple(sequence))  # type: ignore[arg-type]
    monkeypatch.setattr(objective.tokenizer, "forward", lambda video, random: own)
    losses_of(objective, batch, "tokenizer")
    assert torch.equal(batch.frame_pairs["image_discriminator"][0], images[0])
    assert torch.equal(batch.frame_pairs["temporal_discriminator"][1], sequence[1])


def test_there_is_no_adversarial_loss_before_the_start_step() -> None:
    objective = toy_objective()
    batch = objective.batch(ROWS, ROWS)
    objective.begin_step(3)
    assert losses_of(objective, batch, "tokenizer").keys() == objective.tokenizer(batch.video).losses.keys()
    assert losses_of(objective, batch, "discriminators") == {}
    objective.begin_step(4)
    new = losses_of(objective, batch, "tokenizer").keys() - objective.tokenizer(batch.video).losses.keys()
    assert new == {"adversarial/image_discriminator", "adversarial/temporal_discriminator"}


def test_the_gradient_penalty_is_multiplied_by_its_interval() -> None:
    objective = toy_objective(section(adversarial={"start_step": 4, "r1": 6.0, "r1_every": 3}))
    batch, penalised = objective.batch(ROWS, ROWS), []
    for step in range(4, 11):
        objective.begin_step(step)
        losses_of(objective, batch, "tokenizer")
        losses = losses_of(objective, batch, "discriminators")
        if "temporal_discriminator/r1" in losses:
            penalised.append(step)
            expected = 6 / 2 * 3 * gradient_penalty(objective.networks["temporal_discriminator"], batch.video)
            torch.testing.assert_close(losses["temporal_discriminator/r1"], expected)
    assert penalised == [4, 7, 10]


def test_the_adversarial_weight_is_fixed_or_equalizes_both_gradients() -> None:
    def gradients(**settings: Any) -> tuple[Tensor, Tensor]:
        """Gradients of the tokenizer's own losses and of the adversarial ones at the last layer."""
        objective = toy_objective(section(adversarial=settings))
        losses = losses_of(objective, objective.batch(ROWS, ROWS), "tokenizer")
        own = torch.stack([loss for name, loss in losses.items() if "/" not in name]).sum()
        adversarial = torch.stack([loss for name, loss in losses.items() if "/" in name]).sum()
        last = objective.tokenizer.last_layer
        assert last.shape[1] == 3, "the last layer must be a transposed conv to three colours"
        first, second = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (own, adversarial))
        return first, second

    (own, fixed), (_, double) = gradients(), gradients(weight=2.0)
    torch.testing.assert_close(double, 2 * fixed)
    _, adapted = gradients(weight=0.5, adaptive=True, cap=1e6)
    torch.testing.assert_close(adapted.norm(), 0.5 * own.norm())
    _, capped = gradients(adaptive=True, cap=float(own.norm() / fixed.norm()) / 7)
    torch.testing.assert_close(capped.norm(), own.norm() / 7)


def test_perceptual_losses_are_of_the_images_and_of_the_decoded_frames_of_the_sequence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = PerceptualNetwork(TABLETOP)
    save_file(network.state_dict(), tmp_path / "small.safetensors")
    digest = hashlib.sha256((tmp_path / "small.safetensors").read_bytes()).hexdigest()
    small = {"network": "tabletop", "file": str(tmp_path / "small.safetensors"), "sha256": digest, "weight": 7.0}
    objective = toy_objective(section(perceptual=small))
    objective.tokenizer.eval()  # codebooks do not change
    assert "perceptual" not in objective.networks, "it is fixed, so checkpoints must not contain it"
    batch = objective.batch(ROWS, ROWS)
    frames = batch.video.transpose(1, 2).flatten(0, 1)
    own = objective.tokenizer(batch.video)
    of_images = perceptual_loss(network, own.video.transpose(1, 2).flatten(0, 1), frames)
    torch.testing.assert_close(losses_of(objective, batch, "tokenizer")["perceptual"], 7 * of_images)
    own.judged_clips = (own.video[:, :, :2], batch.video[:, :, :2])
    monkeypatch.setattr(objective.tokenizer, "forward", lambda video, random: own)
    of_sequence = perceptual_loss(network, own.video[:, :, 1], batch.video[:, :, 1])
    torch.testing.assert_close(
        losses_of(objective, batch, "tokenizer")["perceptual"], 7 * (of_images + of_sequence) / 2
    )


def test_the_adversarial_loss_is_that_of_the_decoded_frames() -> None:
    objective = toy_objective(section(adversarial={}, image_discriminator=None))
    objective.tokenizer.eval()  # codebooks do not change
    batch = objective.batch(ROWS, ROWS)
    with torch.no_grad():
        losses = losses_of(objective, batch, "tokenizer")
        expected = adversarial_loss(
            objective.networks["temporal_discriminator"](objective.tokenizer(batch.video).video)
        )
    torch.testing.assert_close(losses["adversarial/temporal_discriminator"], expected)
    assert "adversarial/image_discriminator" not in losses
    assert objective.networks.keys() == {"tokenizer", "temporal_discriminator", "guard"}


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    """Resumes from before discriminators start, and from after."""
    reference, killed, branch = (tmp_path / name for name in ("reference", "killed", "branch"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(SCRIPT), str(killed), "6"], env=environment, timeout=99, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["step_00000004"]
    train_toy(killed)
    train_toy(reference)
    train_toy(branch, resume=str(reference / "checkpoints/step_00000008"))
    last = "checkpoints/step_00000011/manifest.json"
    manifests = [json.loads((run / last).read_text())["files"] for run in (reference, killed, branch)]
    assert manifests[0] == manifests[1] == manifests[2]
    assert {"network_guard.safetensors", "optimizer_discriminators.safetensors"} <= manifests[0].keys()
    assert (reference / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()


def test_the_averaged_tokenizer_is_exported_without_discriminators(tmp_path: Path) -> None:
    train_toy(tmp_path)
    exported = VideoTokenizer.from_pretrained(tmp_path).state_dict()
    average = load_file(tmp_path / "checkpoints/step_00000011/average.safetensors")
    assert {name.partition(".")[0] for name in average} == {"tokenizer"}, "only exported networks must be averaged"
    assert all(torch.equal(exported[name[10:]], average[name]) for name in average if name.startswith("tokenizer."))


def test_losses_that_not_every_step_has_are_averaged_over_the_steps_that_have_them(tmp_path: Path) -> None:
    train_toy(tmp_path)
    lines = {line["step"]: line for line in read_metrics(tmp_path / "metrics.jsonl") if "train/reconstruction" in line}
    names = ("adversarial/image_discriminator", "image_discriminator/r1", "gradient_norm_discriminators")
    assert all(f"train/{name}" not in lines[4] for name in names)
    assert all(f"train/{name}" in lines[6] for name in names)


def test_train_tokenizer_chooses_the_objective_by_its_section(tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(3).integers(0, 256, (CLIPS, FRAMES, 8, 12, 3), np.uint8))
    assignments = [
        "data={frames: 3, framing: {height: 8, width: 12}, validation: 0.2}",
        "tokenizer={type: frame-vqvae, hidden: 4, residual: 2, blocks: 1, latent: 5}",
        "tokenizer.quantizer={type: vq, codebook_size: 13}",
        "training={batch: 2, temporal_discriminator: {width: 2}, validation_clips: 1, sample_clips: 1}",
    ]
    for number, image in enumerate(("null", "{width: 2}")):
        settings = [*assignments, f"training.image_discriminator={image}"]
        out = tmp_path / str(number)
        train_tokenizer.run(
            TrainTokenizerRequest(
                assignments=settings, data=str(tmp_path / "noise.npy"), out=out, steps=1, device="cpu", workers=0
            )
        )
        names = {path.name for path in (out / "checkpoints/step_00000001").glob("network_*discriminator*")}
        image_too = {"network_image_discriminator.safetensors"} if number else set()
        assert names == {"network_temporal_discriminator.safetensors"} | image_too


def test_the_section_determines_the_training_configuration() -> None:
    assert type(tokenizer_training({"steps": 3})) is TokenizerTrainingConfig
    assert type(tokenizer_training({"perceptual": None})) is AdversarialTrainingConfig, "a ladder's lowest rung"
    with pytest.raises(ConfigError, match="did you mean 'image_discriminator'"):
        tokenizer_training({"image_discriminater": SECTION["image_discriminator"], "guard": 2.0})
    with pytest.raises(ConfigError, match=r"guard \(="):
        tokenizer_training({"guard": 1.0})
    with pytest.raises(ConfigError, match="r1_every at least 1"):
        tokenizer_training({"adversarial": {"r1_every": 0}})


def test_adversarial_settings_without_a_discriminator_are_refused_unless_they_are_the_defaults() -> None:
    without = {"perceptual": None, "image_discriminator": None}
    with pytest.raises(ConfigError, match=r"adversarial\.start_step \(=7\) has no effect without a discr") as error:
        tokenizer_training({**without, "adversarial": {"start_step": 7}})
    assert "\n" not in str(error.value)
    resolved = to_mapping(tokenizer_training(without))
    assert "adversarial" in resolved
    assert to_mapping(tokenizer_training(resolved)) == resolved
