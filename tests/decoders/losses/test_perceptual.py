"""The perceptual network is VGG-16 by names, shapes and values; its weights are loaded from checked files only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_hub import FakeHub, Repo
from safetensors.torch import save, save_file
from torch import Tensor
from torch.nn import functional

from tokenreel.benchmarks.papers.ccvs.tabletop_perceptual import batch, normalise, train_tabletop_perceptual
from tokenreel.decoders.losses import perceptual_weights
from tokenreel.decoders.losses.perceptual import BLOCK_WEIGHTS, TABLETOP, VGG16, PerceptualNetwork, perceptual_loss
from tokenreel.decoders.losses.perceptual_weights import PerceptualConfig, load_perceptual
from tokenreel.errors import ConfigError, HubError

NARROW = ((2, 2), (3, 2), (5, 3), (7, 3), (11, 3))  # VGG-16 with other widths
CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # indices of its convolutions in torchvision's `features`
SHAPES = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256)]
SHAPES += [(512, 256), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512)]


def test_vgg16_has_torchvisions_names_shapes_and_parameters() -> None:
    with torch.device("meta"):
        network = PerceptualNetwork(VGG16)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {}
    for index, (outputs, inputs) in zip(CONVS, SHAPES, strict=True):
        expected |= {f"features.{index}.weight": (outputs, inputs, 3, 3), f"features.{index}.bias": (outputs,)}
    assert shapes == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 14_714_688


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Of a narrow network registered as VGG-16; with a classifier, as in torchvision's file."""
    monkeypatch.setitem(perceptual_weights.BLOCKS, "vgg16", NARROW)
    torch.manual_seed(0)
    return {**PerceptualNetwork(NARROW).state_dict(), "classifier.0.weight": torch.zeros(2)}


@pytest.fixture
def settings(weights: dict[str, Tensor], tmp_path: Path) -> dict[str, Any]:
    save_file(weights, tmp_path / "vgg.safetensors")
    digest = hashlib.sha256((tmp_path / "vgg.safetensors").read_bytes()).hexdigest()
    return {"file": str(tmp_path / "vgg.safetensors"), "sha256": digest}


def test_the_small_network_is_trained_scaled_and_loaded_by_the_same_loader(tmp_path: Path) -> None:
    trained, _ = train_tabletop_perceptual(2, seed=3)
    path = tmp_path / "small.safetensors"
    save_file(trained.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    network = load_perceptual(PerceptualConfig(network="tabletop", file=str(path), sha256=digest))
    frames, labels = batch(np.random.default_rng(0), range(64), 64)
    for features in network(frames):
        assert features.mean().item() == pytest.approx(1, rel=0.2), "on other frames of Tabletop"
    assert set(labels.unique().tolist()) == set(range(8)), "nothing, six kinds, the tip"


def test_scaling_features_changes_them_by_one_factor_per_block() -> None:
    torch.manual_seed(0)
    network, frames = PerceptualNetwork(TABLETOP).double(), torch.randn(3, 3, 16, 24, dtype=torch.float64)
    before = network(frames)
    with torch.no_grad():
        normalise(network, frames)
    for old, new in zip(before, network(frames), strict=True):
        torch.testing.assert_close(new, old / old.mean())


def features_by_hand(weights: dict[str, Tensor], frames: Tensor) -> list[Tensor]:
    """relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, layer by layer as Simonyan and Zisserman list them."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((frames.movedim(1, -1) + 1) / 2 - mean) / deviation
    x, features = x.movedim(-1, 1), []
    for block in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        for index in block:
            x = functional.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1)
            x = x.clamp(min=0)
        features.append(x)
        x = functional.max_pool2d(x, 2)
    return features


def test_features_and_loss_of_a_loaded_network_are_those_by_hand(
    weights: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    network = load_perceptual(PerceptualConfig(**settings))
    decoded, true = torch.randn(2, 3, 3, 32, 48).unbind()
    expected = features_by_hand(weights, decoded)
    assert len(expected) == len(BLOCK_WEIGHTS)
    for features, by_hand in zip(network(decoded), expected, strict=True):
        torch.testing.assert_close(features, by_hand)
    pairs = zip(BLOCK_WEIGHTS, expected, features_by_hand(weights, true), strict=True)
    loss = sum(weight * (a - b).abs().mean() for weight, a, b in pairs)
    torch.testing.assert_close(perceptual_loss(network, decoded, true), loss)


def test_the_network_is_frozen_and_only_decoded_frames_have_gradients(settings: dict[str, Any]) -> None:
    network = load_perceptual(PerceptualConfig(**settings))
    decoded, true = (torch.randn(2, 3, 16, 16, requires_grad=True) for _ in range(2))
    perceptual_loss(network, decoded, true).backward()
    assert decoded.grad is not None
    assert decoded.grad.abs().sum() > 0
    assert true.grad is None
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert perceptual_loss(network, true, true).item() == 0


def test_another_hash_is_rejected_with_both(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"has the sha256 {settings['sha256']}, but perceptual.sha256 is {'0' * 64}$"):
        load_perceptual(PerceptualConfig(**{**settings, "sha256": "0" * 64}))
    with pytest.raises(ConfigError, match=f"sha256 is not set; .* has {settings['sha256']}: compare"):
        load_perceptual(PerceptualConfig(**{**settings, "sha256": None}))


def test_a_pickle_is_rejected_unopened() -> None:
    with pytest.raises(
        ConfigError, match=r"vgg16-397923af\.pth is not a \.safetensors file.*Convert it once: safetensors"
    ):
        PerceptualConfig(file="vgg16-397923af.pth")
    with pytest.raises(ConfigError, match=r"weights\.bin is not a \.safetensors file"):
        PerceptualConfig(repo="owner/vgg", filename="weights.bin")


def test_weights_missing_damaged_or_of_another_network_are_rejected_in_one_line(
    settings: dict[str, Any], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(ConfigError, match=match) as error:
            load_perceptual(PerceptualConfig(**{**settings, **changes}))
        assert "\n" not in str(error.value)

    refused(r"perceptual\.file .* not found: give the weights of vgg16", file=str(tmp_path / "gone.safetensors"))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(b"no tensors in here")
    refused("is not a valid", file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    refused(
        r"does not fit tabletop: features\.0\.weight is \[2, 3, 3, 3\], expected \[16, 3, 3, 3\]", network="tabletop"
    )
    save_file({name: tensor for name, tensor in weights.items() if name != "features.28.bias"}, path)
    refused(r"features\.28\.bias is missing", file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    refused("set either file", file=None)
    refused("set either file", repo="owner/vgg")


def test_weights_come_from_the_hub_with_the_same_checks(
    settings: dict[str, Any], weights: dict[str, Tensor], hub: FakeHub
) -> None:
    content = save(weights)
    hub.repos["model", "owner/vgg"] = repo = Repo("owner/vgg")
    repo.commit("main", {"vgg.safetensors": content})
    digest = hashlib.sha256(content).hexdigest()
    there = {"repo": "owner/vgg", "filename": "vgg.safetensors", "sha256": digest}
    network = load_perceptual(PerceptualConfig(**there))
    torch.testing.assert_close(network.state_dict()["features.28.weight"], weights["features.28.weight"])
    with pytest.raises(ConfigError, match=r"perceptual\.sha256 is 123"):
        load_perceptual(PerceptualConfig(**{**there, "sha256": "123"}))
    with pytest.raises(HubError, match=r"owner/none .*nor a repository on the Hub"):
        load_perceptual(PerceptualConfig(**{**there, "repo": "owner/none"}))
