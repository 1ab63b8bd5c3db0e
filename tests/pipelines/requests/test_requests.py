"""The command line and Python make equal requests, with the same defaults and the same errors."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tokenreel.data.cache.export import SHARD_ROWS
from tokenreel.data.splits import SPLITS
from tokenreel.data.video.encoders import ENCODERS
from tokenreel.errors import ConfigError
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.generation.config import GenerationConfig, generation_config
from tokenreel.pipelines.requests.decoding import DecodeRequest
from tokenreel.pipelines.requests.fields import Request, RequestField, arguments_of, fields_of, names_of
from tokenreel.pipelines.requests.generation import (
    CachePriorOptions,
    ClipGeneratorOptions,
    GenerateRequest,
    PriorOptions,
    SampleRequest,
    VideoGeneratorOptions,
    VideoPriorOptions,
)
from tokenreel.pipelines.requests.program import DoctorRequest, TabletopRequest
from tokenreel.pipelines.requests.shared import FileFormat, Split
from tokenreel.pipelines.requests.tokenizing import ExportRequest, TokenizeRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest
from tokenreel.pipelines.run import COMMANDS, Command, run
from tokenreel.priors.sampling.logits import SamplingConfig, StreamSampling

EMPTY = {  # options whose empty value means none
    *("--preset", "--config", "--level", "--tokenizer", "--controls", "--controls-revision"),
    *("--class", "--states", "--sound", "--end", "--video", "--context-video"),
    *("--cache", "--generator"),
}
CHOICES = {  # commands whose options exclude one another: of each choice, those that it has not
    "sample": (names_of(ClipGeneratorOptions), names_of(CachePriorOptions)),
    "generate": (
        names_of(VideoGeneratorOptions),
        [*names_of(VideoPriorOptions), "controls", "states", "sound", "control", "between_seeds", "num", "class_name"],
    ),
}
REQUIRED = {"sample": "generator", "generate": "generator"}  # unless another choice is made
NAMES = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)


def value_of(field: RequestField, number: int) -> Any:
    """A value in range that is not the default."""
    if field.choices:
        return field.choices[-1]
    if field.is_tuple:
        return (number, number + 1) if field.element is int else (f"a{number}", f"b{number}")
    if field.is_mapping:
        return {"one": field.element(f"{number}"), "other": field.element(f"{number + 1}")}
    if field.type is Path:
        return Path(f"folder/{number}")
    if field.type is float:
        return 0.25
    return True if field.type is bool else field.type(number)


def as_arguments(field: RequestField, value: Any) -> list[str]:
    flag = field.option.flag
    if field.option.positional:
        return [str(value)]
    if field.type is bool:
        return [flag]
    if field.option.separated:
        return [flag, ",".join(value)]
    if isinstance(value, Mapping):
        return [word for name, each in value.items() for word in (flag, f"{name}={each}")]
    if field.length is not None:
        return [flag, *map(str, value)]
    return [word for each in (value if isinstance(value, tuple) else [value]) for word in (flag, str(each))]


def request_of(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> Request:
    """The request that a command line makes."""
    requests: list[Request] = []
    monkeypatch.setattr(Command, "load", lambda _: lambda request: requests.append(request) or {})  # type: ignore[func-returns-value]
    assert run_command(arguments) == 0
    return requests[0]


@NAMES
def test_the_command_line_and_python_make_the_same_request(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """Once with the required fields only, which compares all defaults, and once with all fields, or all of a choice."""
    fields = [field for field in fields_of(command.request) if field.name != "shard_index"]
    required = [field for field in fields if field.required or field.name == REQUIRED.get(command.name)]
    choices = [[field for field in fields if field.name not in left] for left in CHOICES.get(command.name, ((),))]
    for chosen in (required, *choices):
        values = {field.name: value_of(field, number) for number, field in enumerate(chosen, start=3)}
        if "frames" in values and "given_frames" in values:
            values["frames"] = 99
        if command.name == "inspect":  # of a path or of a data set
            values = {"data": "a", "strict": True} if values else {"path": Path("a")}
        given = [field for field in fields if field.name in values]
        arguments = [word for field in given for word in as_arguments(field, values[field.name])]
        made = command.request(**values)
        assert request_of(monkeypatch, [*command.name.split(), *arguments]) == made
        assert request_of(monkeypatch, [*command.name.split(), *arguments_of(made)]) == made


@NAMES
def test_help_shows_each_field_with_its_default(capsys: pytest.CaptureFixture[str], command: Command) -> None:
    assert run_command([*command.name.split(), "--help"]) == 0
    output = capsys.readouterr().out
    for field in fields_of(command.request):
        option = field.option
        if option.positional:
            assert re.search(rf"Usage: .*\b{option.flag}\b", output)
            continue
        found = re.search(rf"^  {option.flag}(?![\w-]).*(?:\n {{4,}}.*)*", output, flags=re.M)
        assert found is not None, option.flag
        text = " ".join(found[0].split())
        assert all(word in text for word in option.help.split() if "-" not in word)
        if field.required:
            assert "[required]" in text
        elif isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
            assert f"[default: {field.default}" in text
        elif field.default is None and option.flag not in EMPTY:
            assert "Default:" in text


def test_a_comma_separated_list_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    command_line = ["sample", "--prior", "p", "--cache", "c", "--out", "o", "--given-controls"]
    for text, expected in (("none", ()), ("class, end", ("class", "end"))):
        request = request_of(monkeypatch, [*command_line, text])
        assert isinstance(request, SampleRequest)
        assert request.given_controls == expected


SAMPLE: dict[str, Any] = {"prior": ("p",), "cache": Path("c"), "out": Path("o")}
PIXELS: dict[str, Any] = {"generator": "g", "out": Path("o")}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SampleRequest(**SAMPLE, num=0), r"--num \(=0\) must be at least 1"),
        (lambda: SampleRequest(**SAMPLE, temperature=0.0), r"--temperature \(=0.0\) must be above 0"),
        (lambda: SampleRequest(**SAMPLE, temperature=float("nan")), r"--temperature \(=nan\) must be above 0"),
        (lambda: SampleRequest(**{**SAMPLE, "prior": []}), "--prior must be given at least once"),
        (lambda: SampleRequest(**SAMPLE, top_p=1.5), r"--top-p \(=1.5\) must be at most 1"),
        (lambda: SampleRequest(**SAMPLE, split="trian"), r"--split 'trian' is not known; did you mean 'train'"),
        (lambda: SampleRequest(**SAMPLE, num="3"), r"--num \(='3'\) must be of type int"),
        (lambda: SampleRequest(**SAMPLE, num=True), r"--num \(=True\) must be of type int"),
        (lambda: SampleRequest(**SAMPLE, top_k_of=["state=3"]), r"--top-k-of \(=\['state=3'\]\) must be a mapping"),
        (lambda: SampleRequest(**{**SAMPLE, "prior": "p"}), r"--prior \(='p'\) must be a list"),
        (lambda: SampleRequest(**SAMPLE, given_frames=3, frames=2), r"--frames \(=2\) must be at least --given-frames"),
        (lambda: DecodeRequest(tokens="t", tokenizer="t", out="o", given_frames=2), r"--given-frames \(=2\) .*--con"),
        (lambda: TokenizeRequest(data="d", out="o", shard_index=2, num_shards=2), r"--shard-index \(=2\) must be"),
        (lambda: TokenizeRequest(data="d.npy", out="o", dry_run=True), r"--dry-run \(=True\) is for videos"),
        (lambda: GenerateRequest(prior=["p"], tokenizer="t", out="o"), r"--given-frames \(=1\) needs --video"),
        (lambda: TabletopRequest(directory=None), r"DIRECTORY \(=None\) must be of type Path"),
        (lambda: run(PriorOptions()), "PriorOptions is not the request of a command"),
        (lambda: SampleRequest(prior=["p"], out="o"), "--cache must be given with --prior"),
        (lambda: SampleRequest(**SAMPLE, truncation=0.5), r"--truncation \(=0.5\) is for --generator: omit it"),
        (lambda: SampleRequest(**SAMPLE, classes=["a", "b"]), r"--class \(=a, b\) is for --generator: omit it"),
        (lambda: SampleRequest(**PIXELS, cache="c"), r"--cache \(=c\) is for --prior, and a --generator makes"),
        (lambda: SampleRequest(**PIXELS, prior=["p"]), "--prior and --generator exclude each other: omit one of them"),
        (lambda: SampleRequest(**PIXELS, num=0), r"--num \(=0\) must be at least 1"),
        (lambda: SampleRequest(**PIXELS, truncation=1.5), r"--truncation \(=1.5\) must be at most 1"),
        (lambda: SampleRequest(**PIXELS, truncation=-0.5), r"--truncation \(=-0.5\) must be at least 0"),
        (lambda: SampleRequest(**PIXELS, num_clips=3), r"--num-clips \(=3\) is for the clips of --data, which is not"),
        (lambda: GenerateRequest(out="o"), "--prior must be given at least once, or a --generator in its place"),
        (lambda: GenerateRequest(prior=["p"], out="o"), "--tokenizer must be given with --prior"),
        (lambda: GenerateRequest(**PIXELS, tokenizer="t"), r"--tokenizer \(=t\) is for --prior"),
        (lambda: GenerateRequest(**PIXELS, given_frames=3), r"--given-frames \(=3\) is for --prior"),
        (lambda: GenerateRequest(**PIXELS, sound="s"), r"--sound \(=s\) is for --prior"),
        (lambda: GenerateRequest(**PIXELS, steps=3), r"--steps \(=3\) is for --between-classes and --between-seeds"),
        (lambda: GenerateRequest(**PIXELS, steps=1), r"--steps \(=1\) must be at least 2"),
        (lambda: GenerateRequest(**PIXELS, between_seeds=(0, 1), num=3), r"--num \(=3\) is not used with --between-s"),
        (lambda: GenerateRequest(**PIXELS, between_seeds=(0, 1), seed=3), r"--seed \(=3\) is not used with --between"),
        (lambda: GenerateRequest(**PIXELS, between_seeds=(0, -1)), r"--between-seeds \(=-1\) must be at least 0"),
        (lambda: GenerateRequest(**PIXELS, between_seeds=(0, 1, 2)), r"--between-seeds \(=.*\) must be 2 values"),
        (lambda: GenerateRequest(**PIXELS, between_classes=("a", "b"), num=3), r"--num \(=3\) is not used with --betw"),
        (lambda: GenerateRequest(**PIXELS, between_classes=("a", "b"), class_name="c"), r"--class \(=c\) is not used"),
        (lambda: GenerateRequest(**PIXELS, between_classes=("a", "b"), between_seeds=(0, 1)), "exclude each other"),
    ],
)  # fmt: skip
def test_errors_in_python_name_the_option(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_strings_become_paths_and_lists_become_tuples() -> None:
    request = TrainPriorRequest(cache="c", out="o", assignments=["prior.depth=4"])  # type: ignore[arg-type]
    assert (request.cache, request.assignments) == (Path("c"), ("prior.depth=4",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.out = Path("p")  # type: ignore[misc]


def test_a_folder_without_a_name_of_its_own_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As temporary folders and probes are written beside it."""
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert TabletopRequest(directory="..").directory == TabletopRequest(directory=Path("..")).directory == tmp_path
    assert TabletopRequest(directory=".").directory == tmp_path / "below"
    with pytest.raises(ConfigError, match=r"--out \. is the folder that this command runs in: give another one"):
        TokenizeRequest(data="a", tokenizer="b", out=".")
    (tmp_path / "below/zarr.json").touch()
    assert TokenizeRequest(data="a", tokenizer="b", out=".").out == tmp_path / "below"


def test_run_executes_a_request() -> None:
    assert "packages" in run(DoctorRequest())


def test_sampling_defaults_are_those_of_the_sampler() -> None:
    assert generation_config(SampleRequest(**SAMPLE, num=3)) == GenerationConfig(num=3, given_frames=1)


def test_every_sampling_option_reaches_the_sampler() -> None:
    options = SampleRequest(
        **SAMPLE,
        temperature=0.5,
        top_k=7,
        top_p=0.75,
        greedy=True,
        top_k_of={"state": 3},
        guidance=2.0,
        speculate=5,
        window_stride=4,
    )
    own = StreamSampling(0.5, 3, 0.75, True)
    expected = SamplingConfig(0.5, 7, 0.75, True, speculate=5, guidance=2.0, window_stride=4, streams={"state": own})
    assert generation_config(options).sampling == expected


def test_what_requests_repeat_is_what_the_data_layer_has() -> None:
    """A request imports nothing of it, so that help needs no numpy."""
    assert set(typing.get_args(Split)) == set(SPLITS)
    assert {f".{suffix}" for suffix in typing.get_args(FileFormat)} == set(ENCODERS)
    (rows,) = (field.default for field in fields_of(ExportRequest) if field.name == "shard_rows")
    assert rows == SHARD_ROWS
