"""Saving, loading, pushing and pulling models, and errors of damaged or incomplete ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import FakeHub
from torch import Tensor, nn

from tokenreel import hub_answers
from tokenreel.config import from_mapping, to_mapping
from tokenreel.errors import ConfigError, HubError
from tokenreel.hub import PretrainedModel, fingerprint
from tokenreel.repositories import Upload, find_repo, push_folder


@dataclass(frozen=True)
class Inner:
    width: int = 3


@dataclass(frozen=True)
class ToyConfig:
    inner: Inner = Inner()
    depth: int = 2
    type: str = "toy"


class Toy(nn.Module, PretrainedModel):
    """A model with a nested configuration, a shared weight and a buffer, which the mixin's own loader loses."""

    kind = "tokenizer"

    def __init__(self, config: ToyConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(config.inner.width, 5, generator=generator))
        self.tied = self.weight
        self.register_buffer("count", torch.tensor(seed))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def to_document(self) -> dict[str, Any]:
        return {"config": to_mapping(self.config)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Toy:
        return cls(from_mapping(ToyConfig, document["config"]))


@pytest.fixture
def toy() -> Toy:
    model = Toy(ToyConfig(Inner(7), 11), seed=13)
    model.about = {"data": "tabletop:", "steps": 17, "scores": {"psnr": 28.123456}}
    return model


@pytest.fixture
def saved(toy: Toy, tmp_path: Path) -> Path:
    toy.save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


def assert_same(one: Toy, other: Toy) -> None:
    assert one.config == other.config
    assert dict(one.about) == dict(other.about)
    assert one.weights_fingerprint == other.weights_fingerprint
    assert all(torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in one.state_dict())


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_saved_model_is_loaded_unchanged(toy: Toy, saved: Path) -> None:
    loaded = Toy.from_pretrained(saved)
    assert_same(loaded, toy)
    assert not loaded.training


def test_the_fingerprint_depends_on_bits_names_types_and_the_configuration() -> None:
    tensors = {"a": torch.zeros(3), "b": torch.ones(5)}
    base = fingerprint({"depth": 1}, tensors)
    assert base == fingerprint({"depth": 1}, dict(reversed(tensors.items())))
    others = [
        fingerprint({"depth": 2}, tensors),
        fingerprint({"depth": 1}, {**tensors, "a": torch.tensor([0.0, 0.0, 1e-45])}),
        fingerprint({"depth": 1}, {"c": tensors["a"], "b": tensors["b"]}),
        fingerprint({"depth": 1}, {**tensors, "a": torch.zeros(3, dtype=torch.int32)}),
        fingerprint({"depth": 1}, {**tensors, "a": torch.zeros(1, 3)}),
    ]
    assert len({base, *others}) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"type": "toy", "dpeth": 3}}, "did you mean 'depth'"),
        ({"config": {"type": "toy", "inner": {"width": 8}, "depth": 11}}, "does not fit its config.json"),
        ({"config": {"type": "toy", "inner": {"width": 7}, "depth": 12}}, "not those that config.json was saved with"),
        ({"format_version": 2}, "upgrade tokenreel"),
        ({"colours": "Lab"}, "'colours' is not supported by this version; upgrade tokenreel"),
        ({"kind": "prior"}, "expected a saved tokenizer, got a saved prior"),
    ],
)
def test_an_invalid_configuration_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(saved, **changes)
    with pytest.raises((HubError, ConfigError), match=message):
        Toy.from_pretrained(saved)


def test_a_model_from_before_a_setting_existed_keeps_its_fingerprints_and_its_document(tmp_path: Path) -> None:
    """A model with the default `depth`, as an older version without this setting saved it."""
    model = Toy(ToyConfig(Inner(7)), seed=13)
    model.about = {"steps": 17, "data": "tabletop:"}
    model.save_pretrained(tmp_path / "old")
    config = {"inner": {"width": 7}, "type": "toy"}
    expected = {"weights": fingerprint({"config": config}, model.state_dict())}
    edit_config(tmp_path / "old", config=config, fingerprints=expected)
    loaded = Toy.from_pretrained(tmp_path / "old")
    assert loaded.config == model.config
    assert loaded.fingerprints() == expected != model.fingerprints()
    loaded.save_pretrained(tmp_path / "one")
    Toy.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    for name in ("config.json", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    old, one = (json.loads((tmp_path / key / "config.json").read_text()) for key in ("old", "one"))
    assert old == one
    loaded.config = ToyConfig(Inner(7), depth=3)  # another setting makes it another model
    assert loaded.document == loaded.to_document() == {"config": {**config, "depth": 3}}


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"architectures": ["BertModel"], "model_type": "bert"}'])
def test_a_configuration_of_another_library_is_refused(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(HubError, match=r"config\.json"):
        Toy.from_pretrained(saved)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_model_is_refused(saved: Path, missing: str) -> None:
    (saved / missing).unlink()
    with pytest.raises(HubError, match=missing):
        Toy.from_pretrained(saved)


def test_a_flipped_bit_and_a_truncated_file_are_refused(saved: Path) -> None:
    weights = saved / "model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(HubError, match="not those that"):
        Toy.from_pretrained(saved)
    weights.write_bytes(intact[:-5])
    with pytest.raises(HubError, match="damaged"):
        Toy.from_pretrained(saved)


def test_a_file_instead_of_a_folder_is_refused(hub: FakeHub, saved: Path) -> None:
    with pytest.raises(HubError, match=r"config\.json is a file: give the folder"):
        Toy.from_pretrained(saved / "config.json")
    assert not hub.requests


def test_a_push_without_a_token_says_how_to_get_one(hub: FakeHub, toy: Toy) -> None:
    hub.refuses_writing = True
    with pytest.raises(HubError, match=r"me/toy: the Hub refused \(401\); run `hf auth login`"):
        push_folder(Path(), "me/toy", Upload("model", ()))


def test_a_missing_model_is_reported_as_missing(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="neither a folder"):
        Toy.from_pretrained(tmp_path / "nothing")
    with pytest.raises(HubError, match="me/nothing is neither a local folder nor a repository"):
        Toy.from_pretrained("me/nothing")
    assert hub.requests


def test_a_revision_is_never_ignored_for_a_local_folder(
    hub: FakeHub, toy: Toy, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toy.push_to_hub("me/toy")
    commit = hub.repos["model", "me/toy"].branches["main"]
    other = Toy(ToyConfig(), seed=19)
    other.save_pretrained(tmp_path / "me/toy")
    assert_same(Toy.from_pretrained("me/toy"), other)
    with pytest.raises(HubError, match="me/toy is a local folder and has no revision"):
        Toy.from_pretrained("me/toy", revision=commit)
    assert_same(Toy.from_pretrained("hf://me/toy", revision=commit), toy)


def test_a_path_below_a_local_folder_is_not_asked_of_the_hub(
    hub: FakeHub, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    toy.push_to_hub("runs/prior")
    hub.requests.clear()
    for name in ("runs/prior", "./runs/prior", "~/prior", "/runs/prior", "hf://runs", "hf://../x", "runs/a..b"):
        with pytest.raises(HubError, match=r"does not exist in the folder runs|neither a folder nor"):
            Toy.from_pretrained(name)
    assert not hub.requests
    assert_same(Toy.from_pretrained("hf://runs/prior"), toy)


def test_a_body_that_is_larger_than_announced_is_cut_off(hub: FakeHub, toy: Toy) -> None:
    toy.push_to_hub("me/endless")
    hub.endless["model.safetensors"] = 200 << 20
    with pytest.raises(HubError, match=r"more than the .* bytes that it announced"):
        Toy.from_pretrained("me/endless")
    assert hub.sent < 100 << 20


@pytest.mark.parametrize("answer", ["info", "compressed info", "tree"])
def test_an_answer_without_end_is_cut_off(hub: FakeHub, toy: Toy, answer: str) -> None:
    toy.push_to_hub(f"me/endless-{answer[:4]}")
    hub.endless_answers.add(answer)
    with pytest.raises(HubError, match=r"more than .* bytes besides files"):
        Toy.from_pretrained(f"me/endless-{answer[:4]}")
    assert hub.sent < 100 << 20


def test_a_hub_that_does_not_answer_is_given_up(hub: FakeHub, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.push_to_hub("me/silent")
    monkeypatch.setattr(hub_answers, "SILENCE_S", 0.3)
    hub.silent = True
    with pytest.raises(HubError, match="timed out"):
        find_repo("hf://me/silent", None)
    hub.silent = False


def test_a_file_that_claims_more_than_the_disk_has_is_not_downloaded(hub: FakeHub, toy: Toy) -> None:
    toy.push_to_hub("me/claimed")
    hub.claimed["model.safetensors"] = 10**16
    with pytest.raises(HubError, match="Not enough free disk space"):
        Toy.from_pretrained("me/claimed")


def test_push_and_pull_over_http(hub: FakeHub, toy: Toy) -> None:
    toy.push_to_hub("me/toy")
    assert_same(Toy.from_pretrained("me/toy"), toy)
    card = hub.files("model", "me/toy")["README.md"].decode()
    assert "library_name: tokenreel" in card
    assert "- tokenizer" in card
    assert "| steps | 17 |" in card
    assert "| psnr | 28.12 |" in card


def test_what_a_model_says_about_itself_cannot_change_its_card(toy: Toy, tmp_path: Path) -> None:
    toy.about = {"data": "a|b](http://evil) <script>`*\x1b[2J\n\n# Title", "<b>": 1}
    toy.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert r"| data | a\|b\](http://evil) \<script\>\`\*\x1b\[2J # Title |" in card
    assert r"| \<b\> | 1 |" in card
    assert card.count("\n# ") == 1


def test_a_pinned_revision_does_not_change(hub: FakeHub, toy: Toy) -> None:
    toy.push_to_hub("me/pinned")
    first = hub.repos["model", "me/pinned"].branches["main"]
    newer = Toy(ToyConfig(), seed=19)
    newer.push_to_hub("me/pinned")
    assert_same(Toy.from_pretrained("me/pinned", revision=first), toy)
    assert_same(Toy.from_pretrained("me/pinned"), newer)
    with pytest.raises(HubError, match="no revision 'v9'"):
        Toy.from_pretrained("me/pinned", revision="v9")


def test_offline_loading_sends_no_request(hub: FakeHub, toy: Toy) -> None:
    toy.push_to_hub("me/offline")
    Toy.from_pretrained("me/offline")
    hub.requests.clear()
    assert_same(Toy.from_pretrained("me/offline", local_files_only=True), toy)
    with pytest.raises(HubError, match="not in the local cache"):
        Toy.from_pretrained("me/never-seen", local_files_only=True)
    assert hub.requests == []


def test_an_interrupted_download_is_resumed_to_the_same_bytes(hub: FakeHub, toy: Toy) -> None:
    toy.push_to_hub("me/cut")
    hub.cut["model.safetensors"] = 1
    assert_same(Toy.from_pretrained("me/cut"), toy)
    assert hub.cut["model.safetensors"] == 0


def test_gated_and_unrelated_repositories_are_reported(hub: FakeHub, toy: Toy) -> None:
    toy.push_to_hub("me/gated")
    hub.gated.add("me/gated")
    with pytest.raises(HubError, match="gated"):
        Toy.from_pretrained("me/gated")
    foreign = hub.repos["model", "me/gated"]
    hub.gated.clear()
    foreign.commit("main", {"pytorch_model.bin": b"\x80\x04"})
    with pytest.raises(HubError, match=r"no config\.json"):
        Toy.from_pretrained("me/gated")


def test_an_unreachable_hub_is_one_clear_error(tmp_path: Path) -> None:
    """In a new process, because the endpoint is read only once."""
    code = """
from tokenreel.errors import HubError
from tokenreel.hub import resolve
from tokenreel.repositories import Upload, find_repo, push_folder
for call in (lambda: resolve("me/x"), lambda: push_folder(".", "me/x", Upload("model", ("*",)))):
    try:
        call()
    except HubError as error:
        print("HubError", error)
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.count("HubError me/x") == 2, done.stdout + done.stderr
