"""A saved generator as an artifact: pushed, pulled, verified, inspected, and named where another kind is meant."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_hub import FakeHub
from tests.decoders.generators.toy_generators import WIDTH, ToyGenerator, ToyGeneratorConfig

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.decoders.generators.base import GENERATORS, VideoGenerator, build_generator
from tokenreel.errors import HubError, UserError
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.commands import inspect as inspect_path
from tokenreel.pipelines.commands import presets, pull, push, verify
from tokenreel.pipelines.common.settings import load_sections
from tokenreel.pipelines.requests.artifacts import InspectRequest, PullRequest, PushRequest, VerifyRequest
from tokenreel.pipelines.requests.decoding import DecodeRequest, ReconstructRequest
from tokenreel.pipelines.requests.fields import Request
from tokenreel.pipelines.requests.generation import GenerateRequest, SampleRequest
from tokenreel.pipelines.requests.program import ListPresetsRequest, ShowPresetRequest
from tokenreel.pipelines.requests.tokenizing import ExportRequest, TokenizeRequest
from tokenreel.pipelines.requests.training import EvaluateRequest, TrainPriorRequest
from tokenreel.pipelines.run import run
from tokenreel.priors.base import build_prior

FRAMES, FRAMING, NOISE, GIVEN = 5, Framing(6, 11), 7, 2
PIXELS = 3 * (FRAMES - GIVEN) * 6 * 11
COUNT = (NOISE + GIVEN) * WIDTH + 2 * WIDTH + (WIDTH + 1) * PIXELS  # linear map, norm, linear map


@pytest.fixture
def generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Saved."""
    monkeypatch.setitem(GENERATORS._members, "toy", ToyGenerator)
    config = dataclasses.asdict(ToyGeneratorConfig(noise=NOISE, given_frames=GIVEN))
    made = build_generator(config, FRAMES, FRAMING)
    made.about = {"steps": 17}
    made.save_pretrained(tmp_path / "generator")
    return tmp_path / "generator"


def test_a_generator_is_pushed_and_pulled(hub: FakeHub, generator: Path, tmp_path: Path) -> None:
    pushed = push.run(PushRequest(path=generator, repo="me/toy"))
    pulled = pull.run(PullRequest(repo="me/toy", path=tmp_path / "back"))
    assert (pulled["kind"], pulled["identity"]) == ("generator", pushed["identity"])
    card = (tmp_path / "back/README.md").read_text()
    assert "# toy (generator)\n\nA generator for video generation at once, without tokens" in card
    assert f"| parameters | {COUNT:,} |\n| steps | 17 |" in card
    assert "model = VideoGenerator.from_pretrained(" in card
    assert VideoGenerator.from_pretrained("me/toy").weights_fingerprint == pushed["identity"]
    out, data = tmp_path / "out", "tabletop:?videos=3&frames=5&size=11"
    assert run_command(["sample", "--generator", "me/toy", "--data", data, "--num", "2", "--out", str(out)]) == 0
    assert len(list(out.glob("*.mp4"))) == 2


def test_a_generator_is_verified_and_inspected(generator: Path) -> None:
    found = VideoGenerator.from_pretrained(generator)
    assert verify.run(VerifyRequest(path=generator)) == {
        "path": str(generator), "intact": True, "kind": "generator", "weights_fingerprint": found.weights_fingerprint,
    }  # fmt: skip
    described = inspect_path.run(InspectRequest(path=generator))
    assert (described["kind"], described["parameters"]) == ("saved model", COUNT)
    assert described["model"]["spec"] == found.spec.to_json()
    (generator / "run.json").write_text(json.dumps({"command": "train-generator"}))
    (generator / "metrics.jsonl").write_text('{"step": 3, "generator/adversarial": 0.5}\n')
    described = inspect_path.run(InspectRequest(path=generator))
    assert (described["kind"], described["last_metrics"]["generator/adversarial"]) == ("training run", 0.5)
    weights = bytearray((generator / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (generator / "model.safetensors").write_bytes(weights)
    with pytest.raises(HubError, match="the weights are not those"):
        verify.run(VerifyRequest(path=generator))


OF_GENERATORS = r"got a saved generator, which is for --generator of sample and generate"
NO_CACHE = "is a saved model and not a token cache"
CONFUSIONS: dict[str, tuple[Callable[[str, Path], Request], str]] = {
    "reconstruct": (lambda model, out: ReconstructRequest(tokenizer=model, data="tabletop:", out=out), OF_GENERATORS),
    "tokenize": (lambda model, out: TokenizeRequest(tokenizer=model, data="tabletop:", out=out), OF_GENERATORS),
    "generate": (lambda model, out: GenerateRequest(prior=[model], tokenizer=model, video="a", out=out), OF_GENERATORS),
    "sample": (lambda model, out: SampleRequest(prior=[model], cache=model, out=out), OF_GENERATORS),
    "evaluate": (lambda model, out: EvaluateRequest(prior=model, cache=model, out=out), OF_GENERATORS),
    "decode": (lambda model, out: DecodeRequest(tokens=model, tokenizer=model, out=out), NO_CACHE),
    "export": (lambda model, out: ExportRequest(cache=model, out=out), NO_CACHE),
    "train-prior": (
        lambda model, out: TrainPriorRequest(preset="gpt-tabletop-tiny", cache=model, out=out),
        NO_CACHE,
    ),
}


@pytest.mark.parametrize("name", CONFUSIONS)
def test_a_generator_in_place_of_another_kind_is_named(generator: Path, tmp_path: Path, name: str) -> None:
    make, message = CONFUSIONS[name]
    with pytest.raises(UserError, match=message):
        run(make(str(generator), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_another_kind_in_place_of_a_generator_is_named(tmp_path: Path) -> None:
    spec = TokenSpec((StreamSpec("video", (3, 2, 4), 7),), frames=3, framing=FRAMING)
    build_prior({"type": "unigram"}, spec).save_pretrained(tmp_path / "prior")
    requests = (
        SampleRequest(generator=str(tmp_path / "prior"), out=tmp_path / "out"),
        GenerateRequest(generator=str(tmp_path / "prior"), out=tmp_path / "out"),
    )
    for request in requests:
        with pytest.raises(HubError, match="expected a saved generator, got a saved prior, which is for --prior"):
            run(request)


@pytest.mark.parametrize("request_type", [DecodeRequest, ExportRequest])
def test_a_generators_samples_are_no_tokens(tmp_path: Path, request_type: type[Request]) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/samples.json").write_text("{}")
    flags: dict[str, Any] = {"out": tmp_path / "out"}
    flags |= {"cache": tmp_path / "samples"} if request_type is ExportRequest else {"tokens": tmp_path / "samples"}
    if request_type is DecodeRequest:
        flags["tokenizer"] = "a"
    with pytest.raises(UserError, match="samples holds a generator's samples, which are videos already"):
        run(request_type(**flags))


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The only one of the package."""
    sections = {
        "data": {"frames": FRAMES, "framing": {"height": 6, "width": 11}},
        "generator": {"type": "toy", "noise": NOISE, "class_conditional": True},
        "discriminators": {"width": 3},
        "training": {"batch": 4, "generator": {"steps": 19}},
    }
    (tmp_path / "presets").mkdir()
    text = f"# A toy.\n# tokenreel train-generator --preset toy-tabletop-tiny\n{yaml.safe_dump(sections)}"
    (tmp_path / "presets/toy-tabletop-tiny.yaml").write_text(text)
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    monkeypatch.setitem(GENERATORS._members, "toy", ToyGenerator)
    return "toy-tabletop-tiny"


def test_a_preset_counts_the_generator_and_each_discriminator(preset: str, tmp_path: Path) -> None:
    pixels = 3 * FRAMES * 6 * 11
    counts = {  # with the eight classes of Tabletop
        "generator": (NOISE + 8) * WIDTH + 2 * WIDTH + (WIDTH + 1) * pixels,
        "discriminators.score": (pixels + 1) * 3 + 3 + 1,
    }
    listed = presets.run(ListPresetsRequest())[preset]
    assert listed["parameters"] == counts
    assert listed["sections"] == ["data", "discriminators", "generator", "training"]
    shown = presets.run(ShowPresetRequest(name=preset))
    assert shown["parameters"] == counts
    assert (shown["generator"]["type"], shown["discriminators"]) == ("toy", {"width": 3})
    assert (shown["training"]["generator"]["batch"], shown["training"]["generator"]["steps"]) == (4, 19)
    (tmp_path / "mine.yaml").write_text(presets.run(ShowPresetRequest(name=preset, yaml=True))["yaml"])
    sections = load_sections(tmp_path / "mine.yaml")
    assert sections.keys() == {"data", "generator", "discriminators", "training"}
    with torch.device("meta"):
        names = tuple(map(str, range(8)))
        assert VideoGenerator.from_preset(preset, names).config == GENERATORS.config(sections["generator"])


def test_the_page_of_presets_has_generators(preset: str) -> None:
    page = runpy.run_path(str(Path(__file__).parents[3] / "docs/presets.py"))["page"]()
    assert f"| [`{preset}`](#{preset}) | 5 x 6 x 11 | 0.01 M | 0.00 M | 0 MB |" in page
    assert "## DVD-GAN" not in page


def test_settings_of_a_saved_generator_are_taken(generator: Path) -> None:
    found = load_sections(generator / "config.json")
    assert found["generator"]["given_frames"] == GIVEN
    assert found["data"] == {"framing": found["data"]["framing"], "frames": FRAMES}
    assert found["data"]["framing"]["width"] == 11
