"""All commands: the name on the command line, the request, and the module of `pipelines/commands` that carries it out.

A module is imported when its command runs, so that this table costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenreel.errors import ConfigError
from tokenreel.pipelines.requests.artifacts import InspectRequest, PullRequest, PushRequest, VerifyRequest
from tokenreel.pipelines.requests.decoding import DecodeRequest, ReconstructRequest
from tokenreel.pipelines.requests.fields import Request
from tokenreel.pipelines.requests.generation import GenerateRequest, SampleRequest
from tokenreel.pipelines.requests.program import (
    DemoRequest,
    DoctorRequest,
    ListPresetsRequest,
    ShowPresetRequest,
    TabletopRequest,
)
from tokenreel.pipelines.requests.tokenizing import ExportRequest, RepairRequest, TokenizeRequest
from tokenreel.pipelines.requests.training import (
    EvaluateRequest,
    FitControlsRequest,
    TrainGeneratorRequest,
    TrainPriorRequest,
    TrainTokenizerRequest,
)


@dataclass(frozen=True)
class Command:
    name: str  # "presets list" is the command `list` of the group `presets`
    request: type[Request]
    module: str

    def load(self) -> Callable[[Any], dict[str, Any]]:
        """The function `run` of the command's module, which takes a request and returns the summary."""
        function: Callable[[Any], dict[str, Any]] = importlib.import_module(
            f"tokenreel.pipelines.commands.{self.module}"
        ).run
        return function


COMMANDS = (  # in the order of a project, which is that of `--help`
    Command("demo", DemoRequest, "demo"),
    Command("tabletop", TabletopRequest, "tabletop"),
    Command("train-tokenizer", TrainTokenizerRequest, "train_tokenizer"),
    Command("fit-controls", FitControlsRequest, "fit_controls"),
    Command("tokenize-dataset", TokenizeRequest, "tokenize_dataset"),
    Command("train-prior", TrainPriorRequest, "train_prior"),
    Command("train-generator", TrainGeneratorRequest, "train_generator"),
    Command("evaluate", EvaluateRequest, "evaluate"),
    Command("sample", SampleRequest, "sample"),
    Command("decode", DecodeRequest, "decode"),
    Command("generate", GenerateRequest, "generate"),
    Command("reconstruct", ReconstructRequest, "reconstruct"),
    Command("push", PushRequest, "push"),
    Command("pull", PullRequest, "pull"),
    Command("inspect", InspectRequest, "inspect"),
    Command("verify", VerifyRequest, "verify"),
    Command("repair", RepairRequest, "repair"),
    Command("export", ExportRequest, "export"),
    Command("presets list", ListPresetsRequest, "presets"),
    Command("presets show", ShowPresetRequest, "presets"),
    Command("doctor", DoctorRequest, "doctor"),
)


def run(request: Request) -> dict[str, Any]:
    """Carries out a request as the command line does, and returns the summary that `--json` prints.

    Raises the classes of `tokenreel.errors`, as the command's module says.
    """
    for command in COMMANDS:
        if command.request is type(request):
            return command.load()(request)
    raise ConfigError(f"{type(request).__name__} is not the request of a command")
