"""What a generator is conditioned on besides noise, and its check against a spec."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class Conditions:
    """Of B clips; each is None where the spec has none of it."""

    given: Tensor | None = None  # first frames, [B, 3, n, H, W] in [-1, 1]
    end: Tensor | None = None  # last frame, [B, 3, H, W] in [-1, 1]
    classes: Tensor | None = None  # weights of the classes, [B, K]: one-hot, or a mixture of classes

    def select(self, rows: Tensor | slice) -> Conditions:
        """The conditions of some of the clips."""
        return replace(self, **{name: tensor[rows] for name, tensor in self._present.items()})

    def to(self, device: torch.device | str) -> Conditions:
        return replace(self, **{name: tensor.to(device) for name, tensor in self._present.items()})

    def require(self, spec: GeneratorSpec, count: int) -> None:
        """Raises ConfigError unless these are the conditions of `count` clips of `spec`."""
        height, width = spec.framing.height, spec.framing.width
        expected = {
            "given": (count, 3, spec.given_frames, height, width) if spec.given_frames else None,
            "end": (count, 3, height, width) if spec.end_frame else None,
            "classes": (count, len(spec.classes)) if spec.classes else None,
        }
        for name, shape in expected.items():
            found = getattr(self, name)
            if shape is None and found is not None:
                raise ConfigError(f"{name}: this generator makes {spec.summary}, without {name}: omit it")
            if shape is not None and (found is None or found.shape != shape):
                has = "missing" if found is None else f"of shape {tuple(found.shape)}"
                raise ConfigError(f"{name} is {has}; this generator needs {list(shape)}: it makes {spec.summary}")

    @property
    def _present(self) -> dict[str, Tensor]:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def class_weights(indices: list[int], spec: GeneratorSpec) -> Tensor:
    """One-hot weights [B, K] of class indices. Raises ConfigError for an index out of range."""
    for index in indices:
        if not 0 <= index < len(spec.classes):
            raise ConfigError(f"class index {index} must be between 0 and {len(spec.classes) - 1}")
    return torch.nn.functional.one_hot(torch.tensor(indices, dtype=torch.long), len(spec.classes)).float()
