"""`tokenreel presets list`: the shipped presets. Builds nothing."""

from __future__ import annotations

from importlib import resources
from typing import Any

from tokenreel.config import load_preset, preset_names


def run() -> dict[str, Any]:
    """Each preset's name with what it is, and its sections."""
    return {name: {"about": _description(name), "sections": list(load_preset(name))} for name in preset_names()}


def _description(name: str) -> str:
    """The first line at the preset's top that is no command line."""
    text = (resources.files("tokenreel") / "pipelines" / "presets" / f"{name}.yaml").read_text()
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    return next((line for line in comments if line and not line.startswith("tokenreel ")), "")
