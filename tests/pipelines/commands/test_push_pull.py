"""`push` and `pull` of every kind of artefact over HTTP: what arrives is what was sent, or nothing arrives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_hub import FakeHub

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import CacheError, HubError, UserError
from tokenreel.pipelines.commands import pull, push
from tokenreel.priors.base import Prior, build_prior

SPEC = TokenSpec((StreamSpec("video", grid=(3, 2, 5), codebook_size=7),), frames=3, framing=Framing(11, 13))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    codes = np.random.default_rng(0).integers(0, 7, (17, 3, 2, 5, 1), dtype=np.uint8)
    sources = [{"id": f"{row:04d}"} for row in range(len(codes))]
    write_token_file(tmp_path / "cache", SPEC, {"video": codes}, "fingerprint", sources)
    (tmp_path / "cache/origin.json").write_text('{"data": "/home/someone/private"}')
    return tmp_path / "cache"


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    build_prior({"type": "temporal-bigram"}, SPEC).save_pretrained(tmp_path / "prior")
    return tmp_path / "prior"


def test_a_cache_goes_and_comes_back_with_its_identity(hub: FakeHub, cache: Path, tmp_path: Path) -> None:
    sent = push.run(cache, "me/tokens", None)
    got = pull.run("me/tokens", tmp_path / "back", None)
    assert (got["kind"], got["identity"]) == ("token cache", sent["identity"])
    there, back = TokenCache.open(cache), TokenCache.open(tmp_path / "back")
    assert back.cache_id == there.cache_id
    assert np.array_equal(back.read(back.rows())["video"], there.read(there.rows())["video"])


def test_the_manifest_is_uploaded_last(hub: FakeHub, cache: Path) -> None:
    """A push that broke off must not look like a whole cache."""
    push.run(cache, "me/tokens", None)
    commits = list(hub.repos["dataset", "me/tokens"].commits.values())
    assert "manifest.json" in commits[-1]
    assert all("manifest.json" not in files for files in commits[:-1])
    assert commits[-1].keys() - commits[-2].keys() == {"manifest.json"}


def test_paths_and_hosts_stay_at_home(hub: FakeHub, cache: Path) -> None:
    push.run(cache, "me/tokens", None)
    files = hub.files("dataset", "me/tokens")
    assert not any(b"private" in data for data in files.values())
    assert not any(name.startswith("commits/") for name in files)


def test_a_prior_goes_and_comes_back(hub: FakeHub, prior: Path, tmp_path: Path) -> None:
    (prior / "checkpoints").mkdir()
    (prior / "checkpoints/large.safetensors").write_bytes(b"1")
    push.run(prior, "me/prior", None)
    assert set(hub.files("model", "me/prior")) == {"README.md", "config.json", "model.safetensors"}
    assert pull.run("me/prior", tmp_path / "back", None)["kind"] == "prior"
    back = Prior.from_pretrained(tmp_path / "back")
    assert back.weights_fingerprint == Prior.from_pretrained(prior).weights_fingerprint
    assert {path.name for path in (tmp_path / "back").iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_a_branch_and_a_commit_can_be_pulled(hub: FakeHub, prior: Path, tmp_path: Path) -> None:
    sent = push.run(prior, "me/branched", "v2")
    assert hub.files("model", "me/branched", "main") == {}
    assert pull.run("me/branched", tmp_path / "branch", "v2")["revision"] == sent["revision"]
    assert pull.run("me/branched", tmp_path / "commit", sent["revision"])["identity"] == sent["identity"]
    with pytest.raises(HubError, match="no revision 'v3'"):
        pull.run("me/branched", tmp_path / "other", "v3")


def test_what_is_damaged_is_not_pushed(hub: FakeHub, cache: Path) -> None:
    shard = next(path for path in (cache / "streams").rglob("*") if path.is_file() and path.name != "zarr.json")
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheError, match="damaged"):
        push.run(cache, "me/damaged", None)
    assert hub.repos == {}


def test_what_is_not_whole_on_the_hub_does_not_arrive(hub: FakeHub, cache: Path, tmp_path: Path) -> None:
    push.run(cache, "me/half", None)
    repo = hub.repos["dataset", "me/half"]
    files = hub.files("dataset", "me/half")
    key = next(name for name in files if "/c/" in name)
    repo.commit("main", {**files, key: files[key][:-1]})
    with pytest.raises(HubError, match=r"me/half at .* not whole"):
        pull.run("me/half", tmp_path / "back", None)
    assert not list(tmp_path.glob("back*"))


def test_a_download_that_breaks_off_leaves_no_folder_and_is_gone_on_with(
    hub: FakeHub, prior: Path, tmp_path: Path
) -> None:
    sent = push.run(prior, "me/cut", None)
    hub.cut["model.safetensors"] = 99
    with pytest.raises(HubError, match="me/cut"):
        pull.run("me/cut", tmp_path / "back", None)
    assert not (tmp_path / "back").exists()
    hub.cut.clear()
    assert pull.run("me/cut", tmp_path / "back", None)["identity"] == sent["identity"]


def test_a_folder_with_something_in_it_is_left_alone(hub: FakeHub, prior: Path, tmp_path: Path) -> None:
    push.run(prior, "me/prior", None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists and is not empty"):
        pull.run("me/prior", tmp_path / "full", None)
    assert (tmp_path / "full/mine.txt").read_text() == "mine"


def test_a_refused_upload_is_a_clear_error(hub: FakeHub, prior: Path) -> None:
    hub.refuses_uploads = True
    with pytest.raises(HubError, match=r"me/prior: .*model\.safetensors"):
        push.run(prior, "me/prior", None)
