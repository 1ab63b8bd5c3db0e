"""Weights of a saved model, and whether its configuration fits them, before anything of their size is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from tokenreel.errors import ConfigError, HubError

HALF_TYPES = (torch.float16, torch.bfloat16)
FLOAT_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# How many modules, parameters and buffers a network may have for each tensor in its file: layers without weights, and
# weights that several modules share.
_PARTS_PER_TENSOR, _MIN_PARTS = 20, 1000


class _TooLargeError(Exception):
    """A network has more parts than the tensors in its file allow."""


class WeightsFile:
    """A safetensors file, and the configuration file beside it that describes the network.

    Only the header is read at first. Raises HubError if it is missing or damaged.
    """

    def __init__(self, path: Path, config: Path) -> None:
        self._path, self._config = path, config
        try:
            with safe_open(path, "pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
                self._shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
                self._types = {name: str(part.get_dtype()) for name, part in slices.items()}
        except FileNotFoundError as error:
            raise HubError(f"{path} is missing; download or save the model again") from error
        except SafetensorError as error:
            raise self._damaged(error) from error

    def build(self, make: Callable[[], Any], half_precision: bool) -> Any:
        """The network that `make` builds from the configuration, with these weights, in the floating-point types in
        which they were saved: those of 16 bits only if `half_precision`. Raises as `require_fit` does.
        """
        self.require_fit(make, half_precision)
        model = make()
        self._cast(model.state_dict(keep_vars=True))
        try:
            load_model(model, self._path, strict=True)
        except SafetensorError as error:
            raise self._damaged(error) from error
        except RuntimeError as error:
            raise self._unfit(_first_line(error)) from error
        return model

    def require_fit(self, make: Callable[[], Any], half_precision: bool) -> Any:
        """The network that `make` builds, on the meta device. Raises HubError unless it takes these tensors, and
        ConfigError as `make` does.

        It is built without memory, so that a configuration of a few bytes cannot claim a network of any size.
        """
        try:
            with torch.device("meta"), _limited(_MIN_PARTS + _PARTS_PER_TENSOR * len(self._shapes)):
                sketch = make()
        except ConfigError as error:
            raise ConfigError(f"{self._config}: {error}") from error
        except _TooLargeError as error:
            raise self._unfit(f"it describes a network of more parts than {len(self._shapes)} tensors fill") from error
        except (RuntimeError, OverflowError, TypeError, ValueError) as error:
            # torch's, of sizes that no tensor can have
            raise HubError(f"{self._config} describes no network that can be built: {_first_line(error)}") from error
        self._require_tensors(sketch.state_dict(keep_vars=True), half_precision)
        return sketch

    def _require_tensors(self, expected: Mapping[str, Tensor], half_precision: bool) -> None:
        """Raises HubError unless names and shapes are those of `expected`; of tensors that modules share, one is
        enough.
        """
        stored = {id(tensor) for name, tensor in expected.items() if name in self._shapes}
        for name, tensor in expected.items():
            if id(tensor) not in stored:
                raise self._unfit(f"tensor {name!r} is missing")
            if name in self._shapes and self._shapes[name] != tuple(tensor.shape):
                raise self._unfit(f"{name!r} is {list(self._shapes[name])}, expected {list(tensor.shape)}")
            found = self._float_type(name)
            if found is not None and (not tensor.is_floating_point() or (found in HALF_TYPES and not half_precision)):
                raise self._unfit(f"{name!r} is of {found}, expected {tensor.dtype}")
        if unknown := sorted(self._shapes.keys() - expected.keys()):
            raise self._unfit(f"tensor {unknown[0]!r} is not expected")

    def _cast(self, tensors: Mapping[str, Tensor]) -> None:
        """Gives `tensors` the types in the file, in place, so that what modules share stays shared."""
        for name, tensor in tensors.items():
            found = self._float_type(name)
            if found is not None and tensor.is_floating_point():
                tensor.data = tensor.data.to(found)

    def _float_type(self, name: str) -> torch.dtype | None:
        return FLOAT_TYPES.get(self._types.get(name, ""))

    def _damaged(self, error: Exception) -> HubError:
        return HubError(f"{self._path} is damaged ({error}); download or save the model again")

    def _unfit(self, problem: str) -> HubError:
        return HubError(f"{self._path} does not fit its {self._config.name}: {problem}")


@contextmanager
def _limited(parts: int) -> Iterator[None]:
    """Stops the construction of networks of more than `parts` modules, parameters and buffers."""
    left = parts

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooLargeError

    registrations = (
        register_module_module_registration_hook,
        register_module_parameter_registration_hook,
        register_module_buffer_registration_hook,
    )
    handles = [register(count) for register in registrations]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
