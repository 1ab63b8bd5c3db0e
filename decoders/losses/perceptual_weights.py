"""Weights of a perceptual network: a safetensors file, local or on the Hub, whose hash is in the configuration.

Nothing is unpickled, and a file with another hash is rejected.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open

from tokenreel.decoders.losses.perceptual import TABLETOP, VGG16, PerceptualNetwork
from tokenreel.errors import ConfigError
from tokenreel.repositories import BoundedProgress, hub_errors, parse_repo

BLOCKS = {"vgg16": VGG16, "tabletop": TABLETOP}
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class PerceptualConfig:
    """The network, the source of its weights, and the weight of the loss."""

    network: Literal["vgg16", "tabletop"] = "vgg16"  # tabletop: small, trained on Tabletop
    file: str | None = None  # a local .safetensors file with torchvision's names (features.0.weight, ...)
    repo: str | None = None  # or a repository on the Hub, OWNER/NAME
    filename: str = "model.safetensors"  # of the file in the repository
    revision: str | None = None  # of the repository: branch, tag or commit
    sha256: str | None = None  # of the file; required for loading
    weight: float = 1.0  # of the loss

    def __post_init__(self) -> None:
        if (self.file is None) == (self.repo is None):
            raise ConfigError(
                f"set either file (={self.file}), a {SUFFIX} file with the weights of {self.network}, or "
                f"repo (={self.repo}), a repository on the Hub that contains one"
            )
        name = self.file or self.filename
        if not name.endswith(SUFFIX):
            raise ConfigError(
                f"{name} is not a {SUFFIX} file, and other formats may execute code when read. Convert it "
                f"once: safetensors.torch.save_file(torch.load({name!r}, weights_only=True), 'weights{SUFFIX}')"
            )
        if self.weight <= 0:
            raise ConfigError(f"weight (={self.weight}) must be positive; omit perceptual to disable it")


def load_perceptual(config: PerceptualConfig) -> PerceptualNetwork:
    """The configured network, frozen. Other tensors in the file, such as a classifier's, are ignored.

    Raises ConfigError for a file that is missing, damaged, of another hash or of another network, and HubError if the
    Hub refuses access or cannot be reached.
    """
    path = _locate(config)
    _require_hash(path, config.sha256)
    with torch.device("meta"):
        network = PerceptualNetwork(BLOCKS[config.network])
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            tensors = {name: file.get_tensor(name).float() for name in shapes if name in names}
    except SafetensorError as error:
        raise ConfigError(f"perceptual: {path} is not a valid {SUFFIX} file ({error})") from error
    for name, shape in shapes.items():
        found = list(tensors[name].shape) if name in tensors else "missing"
        if found != list(shape):
            raise ConfigError(
                f"perceptual: {path} does not fit {config.network}: {name} is {found}, expected {list(shape)}"
            )
    network = PerceptualNetwork(BLOCKS[config.network])
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def _locate(config: PerceptualConfig) -> Path:
    if config.repo is not None:
        repo, _ = parse_repo(config.repo)
        with hub_errors(repo, config.revision):
            return Path(hf_hub_download(repo, config.filename, revision=config.revision, tqdm_class=BoundedProgress))
    path = Path(str(config.file)).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"perceptual.file (={path}) not found: give the weights of {config.network} as a {SUFFIX} file, or disable "
            "the perceptual loss (training.perceptual=null)"
        )
    return path


def _require_hash(path: Path, expected: str | None) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is None:
        raise ConfigError(
            f"perceptual.sha256 is not set; {path} has {found}: compare it with the publisher's, then set it"
        )
    if found != expected:
        raise ConfigError(f"perceptual: {path} has the sha256 {found}, but perceptual.sha256 is {expected}")
