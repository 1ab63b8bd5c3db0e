from __future__ import annotations

import pytest
import torch

from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.device import choose_device


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "cuda:99", "mps:1"])
def test_a_device_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=rf"--device '{name}' is not available: this machine has 0 "):
        choose_device(name)


def test_a_number_of_the_cpu_is_refused() -> None:
    """Not a core, as somebody may take it to be; torch would ignore it."""
    assert choose_device("cpu:0").type == "cpu"
    with pytest.raises(ConfigError, match=r"--device 'cpu:3' is not available: this machine has 1 CPU device; use"):
        choose_device("cpu:3")


def test_the_accelerator_of_the_machine_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert choose_device("mps") == torch.device("mps")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="'xpu' is not available"):
        choose_device("xpu")
