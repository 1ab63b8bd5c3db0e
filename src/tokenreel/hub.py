"""Saved models: a folder of config.json, model.safetensors and a card, on disk or on the Hugging Face Hub.

`huggingface_hub.ModelHubMixin` provides `push_to_hub`, tags and download counts. Loading is our own, because the
mixin's drops unknown keys and rebuilds nested configurations as plain dicts. Files are only read as JSON and
safetensors, refer to registered classes by name, and must match the fingerprints in them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
import yaml
from huggingface_hub import ModelHubMixin
from torch import Tensor

from tokenreel.config import read_small_text
from tokenreel.errors import ConfigError, HubError, shown, visible
from tokenreel.repositories import HUB_PREFIX, download, parse_repo
from tokenreel.saving import write_weights
from tokenreel.weights import HALF_TYPES, WeightsFile

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE)
_FILE_KEYS = {"format_version", "kind", "fingerprints", "about"}  # of config.json; the others are `to_document`'s

# kind -> public class that loads it
_PUBLIC_NAMES = {
    "tokenizer": "VideoTokenizer",
    "prior": "Prior",
    "controls": "Controls",
    "generator": "VideoGenerator",
}
_GIVEN_BY = {  # kind -> what takes it on the command line
    "tokenizer": "--tokenizer",
    "prior": "--prior of sample, generate and evaluate",
    "controls": "--controls of tokenize-dataset and generate",
    "generator": "--generator of sample and generate",
}
_WHAT_FOR = {"generator": "video generation at once, without tokens"}  # for others: in two stages


class PretrainedModel(ModelHubMixin, library_name="tokenreel", tags=["tokenreel", "video-generation"]):
    """Mixin for torch modules that are described by a document (`to_document`) and built from it (`from_document`).

    `about` describes a trained model beyond its configuration (data, steps, scores), as plain data: it is saved in
    config.json and shown on the card.
    """

    kind: ClassVar[str]
    half_precision: ClassVar[bool] = False  # whether it works, and so is saved, with weights of 16 bits
    about: Mapping[str, Any] = MappingProxyType({})
    # The document that the model was loaded from, and the result of `to_document` then.
    _loaded: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None

    def to_document(self) -> dict[str, Any]:
        """Plain data from which `from_document` builds the same module, without its weights."""
        raise NotImplementedError

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_document`. Raises ConfigError if the document is invalid, or of another class."""
        raise NotImplementedError

    @classmethod
    def require_own(cls, model: object) -> Self:
        """Returns `model`. Raises ConfigError if it is not a `cls`, as in `GPT.from_pretrained` of another prior."""
        if not isinstance(model, cls):
            raise ConfigError(
                f"expected a {cls.__name__}, got a {type(model).__name__}: use {_PUBLIC_NAMES[cls.kind]} to load any"
            )
        return model

    @property
    def document(self) -> Mapping[str, Any]:
        """The document that is saved and fingerprinted: the one that the model was loaded from if the model has not
        changed since, so that settings added later do not change its fingerprints, else `to_document`.
        """
        now = self.to_document()
        return self._loaded[0] if self._loaded is not None and self._loaded[1] == now else now

    @property
    def weights_fingerprint(self) -> str:
        """Hex sha256 of the complete model: configuration and every tensor."""
        return fingerprint(self.document, self.state_dict())  # type: ignore[attr-defined]

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints by name, saved in config.json and checked when loading."""
        return {"weights": self.weights_fingerprint}

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """As the mixin's. Raises ConfigError where it was cast to half precision and does not work so, before the mixin
        makes the folder or removes the config.json of a model in it.
        """
        self._require_precision()
        saved: str | None = super().save_pretrained(save_directory, **options)
        return saved

    def _save_pretrained(self, save_directory: Path) -> None:
        """Called by `save_pretrained` and `push_to_hub` of the mixin. config.json is written last: without it the
        folder is not a saved model.
        """
        document = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            **self.document,
            "fingerprints": self.fingerprints(),
            "about": dict(self.about),
        }
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        write_weights(self, save_directory / WEIGHTS_FILE)  # type: ignore[arg-type]
        parameters = sum(p.numel() for p in self.parameters())  # type: ignore[attr-defined]
        card = render_card(json.loads(text), parameters)  # with sorted keys, as for a loaded model
        (save_directory / CARD_FILE).write_text(card, encoding="utf-8")
        (save_directory / CONFIG_FILE).write_text(text)

    def _require_precision(self) -> None:
        for name, tensor in self.state_dict().items():  # type: ignore[attr-defined]
            if tensor.dtype in HALF_TYPES and not self.half_precision:
                raise ConfigError(
                    f"{name} is of {tensor.dtype}, and this {self.kind} is not saved in half precision: call .float() "
                    "first, or save it before it is cast"
                )

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path_or_repo: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        device: str | torch.device = "cpu",
    ) -> Self:
        """The model saved in a folder or in a repository on the Hub, in evaluation mode.

        `revision` is a branch, tag or commit of the repository. With `local_files_only` the Hub is not contacted: files
        in the local cache are used. Raises HubError if the model is not found or incomplete, ConfigError if its
        configuration is not supported by this version.
        """
        folder = resolve(path_or_repo, revision, local_files_only)
        document = read_document(folder, cls.kind)
        weights = WeightsFile(folder / WEIGHTS_FILE, folder / CONFIG_FILE)
        model = weights.build(lambda: cls.from_document(document), cls.half_precision)
        own = model.to_document()
        model._loaded = (_own_part(document, own, folder / CONFIG_FILE), own)
        if document["fingerprints"] != model.fingerprints():
            raise HubError(
                f"{folder}: the weights are not those that {CONFIG_FILE} was saved with: download both again"
            )
        model.about = document["about"]
        return model.to(device).eval()


class _Document(dict[str, Any]):
    """The contents of config.json; a missing key raises HubError."""

    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        super().__init__(data)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise HubError(f"{self._path}: key {key!r} not found, so it was not saved by tokenreel")


def read_document(folder: Path, kind: str | None = None) -> Mapping[str, Any]:
    """The config.json of a saved model. Raises HubError if it is invalid, of another kind, or of a newer format."""
    path = folder / CONFIG_FILE
    try:
        data = json.loads(read_small_text(path))
    except FileNotFoundError as error:
        raise HubError(f"{folder} has no {CONFIG_FILE}: it is not a saved {kind or 'model'}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise HubError(f"{path} cannot be read as JSON: {error}") from error
    document = _Document(path, data if isinstance(data, dict) else {})
    version = document["format_version"]
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise HubError(f"{path}: format_version {shown(version)} is newer than {FORMAT_VERSION}; upgrade tokenreel")
    if str(document["kind"]) not in _PUBLIC_NAMES:
        raise HubError(f"{path}: kind {shown(document['kind'])} is not one of {', '.join(_PUBLIC_NAMES)}")
    if kind not in (None, document["kind"]):
        found = document["kind"]
        raise HubError(f"{folder}: expected a saved {kind}, got a saved {found}, which is for {_GIVEN_BY[found]}")
    return document


def _own_part(document: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The part of config.json that `to_document` wrote. Raises HubError for keys that this version does not have."""
    own = {key: value for key, value in document.items() if key not in _FILE_KEYS}
    for key in own.keys() - expected.keys():
        raise HubError(f"{path}: key {key!r} is not supported by this version; upgrade tokenreel")
    return own


def fingerprint(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 of plain data and named tensors, independent of the device and of the order of names."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def render_card(document: Mapping[str, Any], parameters: int) -> str:
    """The README.md of a saved model, with front matter for the Hub."""
    kind, name = document["kind"], document["config"]["type"]
    card_data = PretrainedModel._hub_mixin_info.model_card_data.to_dict()
    front = yaml.safe_dump({**card_data, "tags": [*card_data["tags"], kind, name]}, sort_keys=False)
    loader = _PUBLIC_NAMES[kind]
    facts = {"kind": kind, "type": name, "parameters": f"{parameters:,}", **document["about"]}
    table = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in _flat(facts))
    details = json.dumps({key: document[key] for key in ("config", "spec") if key in document}, indent=2)
    return f"""---
{front}---

# {name} ({kind})

A {kind} for {_WHAT_FOR.get(kind, "video generation in two stages")}, saved by tokenreel.

| | |
|---|---|
{table}

```python
from tokenreel import {loader}

model = {loader}.from_pretrained("OWNER/NAME", revision="COMMIT")
```

<details><summary>Configuration</summary>

```json
{details}
```

</details>
"""


def _cell(text: str) -> str:
    """Any text in a table of Markdown: the Hub renders cards, and `about` holds the names of files and folders."""
    escaped = re.sub(r"([\\`*\[\]<>|&])", r"\\\1", text)
    return " ".join(visible(escaped).split())


def _flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield str(key), f"{value:.4g}" if isinstance(value, float) else str(value)


def resolve(path_or_repo: str | Path, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder of a saved model: `path_or_repo` if it is a folder, else the repository's files in the local cache,
    downloaded if necessary. hf://OWNER/NAME is always a repository.

    Raises HubError if it is neither, and for a `revision` of a folder, which has none.
    """
    text = str(path_or_repo)
    if not text.startswith(HUB_PREFIX):
        folder = Path(text).expanduser()
        if folder.is_dir():
            if revision is not None:
                raise HubError(
                    f"{text} is a local folder and has no revision {revision!r}: omit the revision, or give "
                    f"{HUB_PREFIX}OWNER/NAME for a repository on the Hub"
                )
            return folder
        if folder.exists():
            raise HubError(f"{text} is a file: give the folder of a saved model")
    repo, _ = parse_repo(text)
    first = repo.partition("/")[0]
    if repo == text and Path(first).is_dir():  # a mistyped path must not become the name of somebody's repository
        raise HubError(
            f"{text} does not exist in the folder {first}: check the path, or give {HUB_PREFIX}{repo} for the "
            "repository on the Hub"
        )
    return download(repo, "model", (CONFIG_FILE, WEIGHTS_FILE), revision, local_files_only=local_files_only)
