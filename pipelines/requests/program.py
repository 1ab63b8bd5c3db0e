"""Requests about the program and what ships with it: demo, Tabletop, presets, doctor."""

from __future__ import annotations

from pathlib import Path

from tokenreel.pipelines.requests.fields import Request, argument, option, request
from tokenreel.pipelines.requests.shared import OUT, SEED


@request
class DemoRequest(Request):
    """Run the full pipeline on synthetic data.

    It ends with report.html in --out.
    """

    out: Path = option(*OUT)
    seed: int = option(*SEED, default=0, minimum=0)
    data: str | None = option("--data", "Videos of your own. Default: synthetic Tabletop videos.", default=None)
    preset: str = option("--preset", "Preset to train.", default="gpt-tabletop-tiny", complete="presets")


@request
class TabletopRequest(Request):
    """Write synthetic Tabletop videos into DIRECTORY."""

    directory: Path = argument("DIRECTORY")
    videos: int = option("--videos", "Number of videos.", default=64, minimum=1)
    frames: int = option("--frames", "Frames of each video.", default=32, minimum=1)
    size: int = option("--size", "Height and width in pixels.", default=64, minimum=1)
    seed: int = option(*SEED, default=0, minimum=0)


@request
class ListPresetsRequest(Request):
    """List the presets."""


@request
class ShowPresetRequest(Request):
    """Show a preset with all defaults.

    Also shows the sizes of its networks.
    """

    name: str = argument("NAME", complete="presets")
    yaml: bool = option(
        "--yaml",
        "Print a file for --config instead, with what each field means and its default: edit it, and give it back.",
        default=False,
    )

    @property
    def verbatim(self) -> str | None:
        return "yaml" if self.yaml else None


@request
class DoctorRequest(Request):
    """Report the environment.

    Package versions with known vulnerabilities are listed as warnings.
    """
