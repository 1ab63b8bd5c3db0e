"""A saved model whose weights a new run starts with (`--init-from`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenreel.config import TYPE_KEY, merge, to_mapping
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.settings import differing_settings
from tokenreel.pipelines.training.objective import Objective
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.base import VideoTokenizer

MAX_NAMED = 6  # tensors in an error message

Model = VideoTokenizer | Prior | VideoGenerator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitialModel:
    """`name`: its folder or its repository on the Hub."""

    name: str
    model: Model

    @property
    def fingerprint(self) -> str:
        return self.model.weights_fingerprint

    def settings(self, section: Mapping[str, Any]) -> dict[str, Any]:
        """`section` of the settings over those of the saved model. Raises ConfigError for a model of another type."""
        own = to_mapping(self.model.config)
        if section.get(TYPE_KEY, own[TYPE_KEY]) != own[TYPE_KEY]:
            raise ConfigError(
                f"--init-from {self.name} is a {own[TYPE_KEY]}, and the settings describe a {section[TYPE_KEY]}: give "
                "the settings of the saved model, or omit the preset, for which they are the default"
            )
        return merge(own, section)

    def load_into(self, network: Model, objective: Objective, tell: bool) -> dict[str, Any]:
        """Copies all weights and buffers to the `network` of `objective`. Returns what the summary says of it, and logs
        what differs if `tell`.

        Raises ConfigError, naming what differs, unless every tensor has its counterpart of the same shape: nothing is
        loaded in part.
        """
        changed = self._changed_settings(network)
        if unfit := list(self._unfit(network)):
            more = f", and {len(unfit) - MAX_NAMED} more" if len(unfit) > MAX_NAMED else ""
            settings = "; ".join(f"{name} is {old}, here {new}" for name, (old, new) in changed.items())
            raise ConfigError(
                f"--init-from {self.name} does not fit, and nothing is loaded in part: "
                f"{', '.join(unfit[:MAX_NAMED])}{more}. Settings that differ: {settings or 'none'}"
            )
        if isinstance(network, VideoGenerator) and isinstance(self.model, VideoGenerator):
            network.load_exported(self.model)
        else:
            network.load_state_dict(self.model.state_dict())
        objective.origin = {"initialised_from": self.fingerprint}
        about: dict[str, Any] = {"model": self.name, "weights": self.fingerprint}
        warnings = [f"{name} was {old} there, and is {new} here" for name, (old, new) in changed.items()]
        if isinstance(network, Prior) and isinstance(self.model, Prior):
            about["trained_on_tokens_of"] = self.model.code_fingerprint
            if self.model.code_fingerprint != network.code_fingerprint:
                warnings.append(
                    f"it was trained on tokens of another tokenizer ({self.model.code_fingerprint}, here "
                    f"{network.code_fingerprint}), whose codes mean something else: its first scores are poor"
                )
        if tell:
            for warning in warnings:
                logger.warning("--init-from %s: %s", self.name, warning)
        return {"init_from": {**about, **({"differs": warnings} if warnings else {})}}

    def _changed_settings(self, network: Model) -> dict[str, tuple[str, str]]:
        """The settings and parts of the spec that differ, by name: (saved, here), cut for messages."""
        documents = (self.model.to_document(), network.to_document())
        saved, here = ({self.model.kind: document["config"], "spec": document["spec"]} for document in documents)
        return differing_settings(saved, here)

    def _unfit(self, network: Model) -> Iterator[str]:
        as_saved = network.for_export() if isinstance(network, VideoGenerator) else network
        saved, here = self.model.state_dict(), as_saved.state_dict()
        for name in dict.fromkeys((*here, *saved)):
            if name not in saved:
                yield f"{name} is missing"
            elif name not in here:
                yield f"{name} has no counterpart"
            elif saved[name].shape != here[name].shape:
                yield f"{name} is {list(saved[name].shape)}, here {list(here[name].shape)}"


def load_initial(
    cls: type[VideoTokenizer | Prior | VideoGenerator], path_or_repo: str | None, revision: str | None
) -> InitialModel | None:
    """The model that `--init-from` names, if it does. Raises what `from_pretrained` raises."""
    if path_or_repo is None:
        return None
    return InitialModel(path_or_repo, cls.from_pretrained(path_or_repo, revision=revision))
