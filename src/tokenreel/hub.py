"""Saved models: a folder of config.json, model.safetensors and a card, on disk or on the Hugging Face Hub.

`huggingface_hub.ModelHubMixin` provides `push_to_hub`, tags and download counts. Loading is our own, because the
mixin's drops unknown keys and rebuilds nested configurations as plain dicts. Files are only read as JSON and
safetensors, refer to registered classes by name, and must match the fingerprints in them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import torch
import yaml
from huggingface_hub import HfApi, ModelHubMixin, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor

from tokenreel.errors import ConfigError, HubError
from tokenreel.saving import write_weights

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE)
_FILE_KEYS = {"format_version", "kind", "fingerprints", "about"}  # of config.json; the others are `to_document`'s

# An HTTP error of the Hub is an OSError and an error of the HTTP library (httpx before huggingface_hub 2, then httpx2).
# Its bases therefore also catch a refused connection or a timeout, in either version.
_TRANSPORT_ERRORS: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
# kind -> public class that loads it
_PUBLIC_NAMES = {"tokenizer": "VideoTokenizer", "prior": "Prior", "controls": "Controls"}
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class PretrainedModel(ModelHubMixin, library_name="tokenreel", tags=["tokenreel", "video-generation"]):
    """Mixin for torch modules that are described by a document (`to_document`) and built from it (`from_document`).

    `about` describes a trained model beyond its configuration (data, steps, scores), as plain data: it is saved in
    config.json and shown on the card.
    """

    kind: ClassVar[str]
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
        (save_directory / CARD_FILE).write_text(card)
        (save_directory / CONFIG_FILE).write_text(text)

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
        try:
            model = cls.from_document(document)
        except ConfigError as error:
            raise ConfigError(f"{folder / CONFIG_FILE}: {error}") from error
        own = model.to_document()
        model._loaded = (_own_part(document, own, folder / CONFIG_FILE), own)
        _load_weights(model, folder / WEIGHTS_FILE)
        if document["fingerprints"] != model.fingerprints():
            raise HubError(
                f"{folder}: the weights are not those that {CONFIG_FILE} was saved with: download both again"
            )
        model.about = document["about"]
        return model.to(device).eval()  # type: ignore[attr-defined]


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
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise HubError(f"{folder} has no {CONFIG_FILE}: it is not a saved {kind or 'model'}") from error
    except (OSError, ValueError) as error:
        raise HubError(f"{path} cannot be read as JSON: {error}") from error
    document = _Document(path, data if isinstance(data, dict) else {})
    version = document["format_version"]
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise HubError(f"{path}: format_version {version!r} is newer than {FORMAT_VERSION}; upgrade tokenreel")
    if str(document["kind"]) not in _PUBLIC_NAMES:
        raise HubError(f"{path}: kind {document['kind']!r} is not one of {', '.join(_PUBLIC_NAMES)}")
    if kind not in (None, document["kind"]):
        raise HubError(f"{folder}: expected a saved {kind}, got a saved {document['kind']}")
    return document


def _own_part(document: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The part of config.json that `to_document` wrote. Raises HubError for keys that this version does not have."""
    own = {key: value for key, value in document.items() if key not in _FILE_KEYS}
    for key in own.keys() - expected.keys():
        raise HubError(f"{path}: key {key!r} is not supported by this version; upgrade tokenreel")
    return own


def _load_weights(model: Any, path: Path) -> None:
    try:
        load_model(model, path, strict=True)
    except FileNotFoundError as error:
        raise HubError(f"{path} is missing; download or save the model again") from error
    except SafetensorError as error:
        raise HubError(f"{path} is damaged ({error}); download or save the model again") from error
    except RuntimeError as error:  # torch's: tensors missing, unexpected or of another shape
        raise HubError(f"{path} does not fit its {CONFIG_FILE}: {' '.join(str(error).split())}") from error


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
    table = "\n".join(f"| {key} | {value} |" for key, value in _flat(facts))
    details = json.dumps({key: document[key] for key in ("config", "spec") if key in document}, indent=2)
    return f"""---
{front}---

# {name} ({kind})

A {kind} for video generation in two stages, saved by tokenreel.

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


def _flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key, f"{value:.4g}" if isinstance(value, float) else str(value)


def resolve(path_or_repo: str | Path, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder of a saved model: `path_or_repo` if it is a folder, else the repository's files in the local cache,
    downloaded if necessary. Raises HubError if it is neither.
    """
    folder, repo = Path(path_or_repo), str(path_or_repo)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise HubError(f"{repo} is a file: give the folder of a saved model")
    if not _REPO_ID.fullmatch(repo):
        raise HubError(f"{repo} is neither a folder nor the name of a repository on the Hub (OWNER/NAME)")
    with hub_errors(repo, revision):
        return Path(
            snapshot_download(
                repo, revision=revision, local_files_only=local_files_only, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]
            )
        )


@contextmanager
def hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Converts errors of the Hub inside the block to HubErrors that say what to do."""
    try:
        yield
    except GatedRepoError as error:
        raise HubError(f"{repo} is gated: request access on its page on the Hub, then run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{repo} is neither a local folder nor a repository on the Hub (if it is private, run `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision!r}; give a branch, a tag or a full commit hash") from error
    except HFValidationError as error:
        raise HubError(f"{repo!r} is not the name of a repository, OWNER/NAME: {error}") from error
    except EntryNotFoundError as error:  # offline, and not or only partly in the local cache
        raise HubError(
            f"{repo} is not a local folder, not in the local cache, and cannot be downloaded: {_first_line(error)}; "
            "check the name, or the connection"
        ) from error
    except _TRANSPORT_ERRORS as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            raise HubError(
                f"{repo}: the Hub refused ({error.response.status_code}); run `hf auth login` with a token that has "
                "the permission"
            ) from error
        raise HubError(f"{repo}: the connection to the Hub failed: {_first_line(error)}; try again") from error
    except RuntimeError as error:  # huggingface_hub's wrapper of errors in the upload of large files
        cause = error.__cause__
        if not isinstance(cause, _TRANSPORT_ERRORS):
            raise
        raise HubError(f"{repo}: {_first_line(error)} {_first_line(cause)}; try again") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Upload:
    """The files of a folder to upload. `last` proves the others to be complete, so it is committed after them."""

    repo_type: Literal["model", "dataset"]
    files: tuple[str, ...]  # glob patterns below the folder
    last: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)  # files by name that are uploaded with this content instead


def push_folder(folder: Path, repo: str, upload: Upload, revision: str | None = None, *, private: bool = False) -> str:
    """Uploads to a repository and branch (`revision`), created if necessary. Returns the hash of the last commit.

    A repository that exists already stays as public or as private as it is.
    """
    api = HfApi()
    with hub_errors(repo, revision), tempfile.TemporaryDirectory() as texts:
        for name, text in upload.texts.items():
            Path(texts, name).write_text(text)
        repo = api.create_repo(repo, repo_type=upload.repo_type, private=private or None, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo, branch=revision, repo_type=upload.repo_type, exist_ok=True)
        for source, patterns in ((texts, tuple(upload.texts)), (folder, upload.files), (folder, upload.last)):
            if patterns:
                commit = api.upload_folder(
                    repo_id=repo,
                    repo_type=upload.repo_type,
                    folder_path=source,
                    revision=revision,
                    allow_patterns=list(patterns),
                    commit_message=f"Upload {', '.join(patterns)} with tokenreel",
                )
    return str(commit.oid)


def find_repo(repo: str, revision: str | None) -> tuple[str, str]:
    """The type of the repository, "model" (tried first) or "dataset", and the commit hash of `revision`."""
    api = HfApi()
    with hub_errors(repo, revision):
        repo_type = "model" if api.repo_exists(repo, repo_type="model") else "dataset"
        return repo_type, str(api.repo_info(repo, revision=revision, repo_type=repo_type).sha)


def download_folder(repo: str, repo_type: str, commit: str, folder: Path) -> None:
    """Downloads all files of a repository at `commit` to `folder`, except files that are there and complete."""
    with hub_errors(repo, commit):
        snapshot_download(
            repo, repo_type=repo_type, revision=commit, local_dir=folder, ignore_patterns=[".gitattributes"]
        )
