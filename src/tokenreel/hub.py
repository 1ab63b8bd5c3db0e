"""To and from the Hugging Face Hub and local folders. (A first version: local folders only.)"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors.torch import load_model, save_model

FORMAT_VERSION = 1


class PretrainedModel:
    """Mixed into a torch module that can say what it is (`to_document`) and be built from that (`from_document`)."""

    kind: ClassVar[str]

    def to_document(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_model(self, str(path / "model.safetensors"))  # type: ignore[arg-type]
        document = {"format_version": FORMAT_VERSION, "kind": self.kind, **self.to_document()}
        (path / "config.json").write_text(json.dumps(document, indent=2, sort_keys=True))

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path) -> Self:
        path = Path(path_or_repo)
        model = cls.from_document(json.loads((path / "config.json").read_text()))
        load_model(model, str(path / "model.safetensors"))
        return model
