"""`push` and `pull` of every kind of artifact over HTTP: it arrives intact or not at all."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_hub import FakeHub, Repo

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import CacheError, HubError, UserError
from tokenreel.pipelines.commands import pull, push
from tokenreel.pipelines.requests.artifacts import PullRequest, PushRequest
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


def test_a_cache_is_pushed_and_pulled_with_its_identity(hub: FakeHub, cache: Path, tmp_path: Path) -> None:
    pushed = push.run(PushRequest(path=cache, repo="me/tokens"))
    pulled = pull.run(PullRequest(repo="me/tokens", path=tmp_path / "back"))
    assert (pulled["kind"], pulled["identity"]) == ("token cache", pushed["identity"])
    there, back = TokenCache.open(cache), TokenCache.open(tmp_path / "back")
    assert back.cache_id == there.cache_id
    assert np.array_equal(back.read(back.rows())["video"], there.read(there.rows())["video"])


def test_the_manifest_is_uploaded_last(hub: FakeHub, cache: Path) -> None:
    """An interrupted push must not look like a complete cache."""
    push.run(PushRequest(path=cache, repo="me/tokens"))
    commits = list(hub.repos["dataset", "me/tokens"].commits.values())
    assert "manifest.json" in commits[-1]
    assert all("manifest.json" not in files for files in commits[:-1])
    assert commits[-1].keys() - commits[-2].keys() == {"manifest.json"}


def test_local_paths_and_host_names_are_not_pushed(hub: FakeHub, cache: Path) -> None:
    push.run(PushRequest(path=cache, repo="me/tokens"))
    files = hub.files("dataset", "me/tokens")
    assert not any(b"private" in data for data in files.values())
    assert not any(name.startswith("commits/") for name in files)


def test_a_prior_is_pushed_and_pulled(hub: FakeHub, prior: Path, tmp_path: Path) -> None:
    (prior / "checkpoints").mkdir()
    (prior / "checkpoints/large.safetensors").write_bytes(b"1")
    push.run(PushRequest(path=prior, repo="me/prior"))
    assert set(hub.files("model", "me/prior")) == {"README.md", "config.json", "model.safetensors"}
    assert pull.run(PullRequest(repo="me/prior", path=tmp_path / "back"))["kind"] == "prior"
    back = Prior.from_pretrained(tmp_path / "back")
    assert back.weights_fingerprint == Prior.from_pretrained(prior).weights_fingerprint
    assert {path.name for path in (tmp_path / "back").iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_a_new_repository_is_public_unless_asked_otherwise(hub: FakeHub, prior: Path) -> None:
    for repo, private in (("me/open", False), ("me/closed", True), ("me/open", True)):
        push.run(PushRequest(path=prior, repo=repo, private=private))
    assert not hub.repos["model", "me/open"].private
    assert hub.repos["model", "me/closed"].private


def test_a_branch_and_a_commit_can_be_pulled(hub: FakeHub, prior: Path, tmp_path: Path) -> None:
    pushed = push.run(PushRequest(path=prior, repo="me/branched", revision="v2"))
    assert hub.files("model", "me/branched", "main") == {}
    assert (
        pull.run(PullRequest(repo="me/branched", path=tmp_path / "branch", revision="v2"))["revision"]
        == pushed["revision"]
    )
    assert (
        pull.run(PullRequest(repo="me/branched", path=tmp_path / "commit", revision=pushed["revision"]))["identity"]
        == pushed["identity"]
    )
    with pytest.raises(HubError, match="no revision 'v3'"):
        pull.run(PullRequest(repo="me/branched", path=tmp_path / "other", revision="v3"))


def test_a_damaged_artifact_is_not_pushed(hub: FakeHub, cache: Path) -> None:
    shard = next(path for path in (cache / "streams").rglob("*") if path.is_file() and path.name != "zarr.json")
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheError, match="damaged"):
        push.run(PushRequest(path=cache, repo="me/damaged"))
    assert hub.repos == {}


def test_an_incomplete_artifact_on_the_hub_is_not_pulled(hub: FakeHub, cache: Path, tmp_path: Path) -> None:
    push.run(PushRequest(path=cache, repo="me/half"))
    repo = hub.repos["dataset", "me/half"]
    files = hub.files("dataset", "me/half")
    key = next(name for name in files if "/c/" in name)
    repo.commit("main", {**files, key: files[key][:-1]})
    with pytest.raises(HubError, match=r"me/half at .* is incomplete"):
        pull.run(PullRequest(repo="me/half", path=tmp_path / "back"))
    assert not list(tmp_path.glob("back*"))


def test_an_interrupted_download_leaves_no_folder_and_is_resumed(hub: FakeHub, prior: Path, tmp_path: Path) -> None:
    pushed = push.run(PushRequest(path=prior, repo="me/cut"))
    hub.cut["model.safetensors"] = 99
    with pytest.raises(HubError, match="me/cut"):
        pull.run(PullRequest(repo="me/cut", path=tmp_path / "back"))
    assert not (tmp_path / "back").exists()
    hub.cut.clear()
    assert pull.run(PullRequest(repo="me/cut", path=tmp_path / "back"))["identity"] == pushed["identity"]


@pytest.mark.parametrize("killed", ["before the marker", "amid the marker", "before the last rename"])
def test_a_pull_that_was_killed_is_continued(
    hub: FakeHub, prior: Path, tmp_path: Path, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = push.run(PushRequest(path=prior, repo="me/prior"))
    request, partial = PullRequest(repo="me/prior", path=tmp_path / "back"), tmp_path / "back.partial"
    if killed == "before the last rename":
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", lambda *_: sys.exit("killed"))
            with pytest.raises(SystemExit):
                pull.run(request)
        assert partial.exists()
    else:
        partial.mkdir()
    if killed == "amid the marker":
        (partial / f".pull.json~{socket.gethostname()}~{2**31 - 1}~0123abcd.partial").write_text('{"re')
    assert pull.run(request)["identity"] == pushed["identity"]
    assert not partial.exists()
    assert {path.name for path in (tmp_path / "back").iterdir()} == {path.name for path in prior.iterdir()}


def test_a_folder_that_is_not_empty_is_not_changed(hub: FakeHub, prior: Path, tmp_path: Path) -> None:
    push.run(PushRequest(path=prior, repo="me/prior"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists and is not empty"):
        pull.run(PullRequest(repo="me/prior", path=tmp_path / "full"))
    assert (tmp_path / "full/mine.txt").read_text() == "mine"


def test_a_folder_of_somebody_else_is_not_taken_for_an_interrupted_download(
    hub: FakeHub, prior: Path, tmp_path: Path
) -> None:
    push.run(PushRequest(path=prior, repo="me/prior"))
    hub.repos["model", "me/junk"] = Repo("me/junk")
    hub.repos["model", "me/junk"].commit("main", {"README.md": b"junk"})
    mine = tmp_path / "back.partial/mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    for repo in ("me/prior", "me/junk"):
        with pytest.raises(UserError, match=r"back\.partial exists and is not an interrupted download"):
            pull.run(PullRequest(repo=repo, path=tmp_path / "back"))
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]
    assert not (tmp_path / "back").exists()
    for text in ("{", "[5]", "[" * 99999):
        (mine.parent / "pull.json").write_text(text)
        with pytest.raises(UserError, match=r"back\.partial (exists and )?is (not )?an interrupted download"):
            pull.run(PullRequest(repo="me/prior", path=tmp_path / "back"))


def test_a_download_of_another_repository_is_not_continued(hub: FakeHub, prior: Path, tmp_path: Path) -> None:
    for repo in ("me/one", "me/two"):
        push.run(PushRequest(path=prior, repo=repo))
    hub.cut["model.safetensors"] = 99
    with pytest.raises(HubError):
        pull.run(PullRequest(repo="me/one", path=tmp_path / "back"))
    hub.cut.clear()
    with pytest.raises(UserError, match=r"is an interrupted download of me/one .*, not of me/two"):
        pull.run(PullRequest(repo="me/two", path=tmp_path / "back"))
    assert pull.run(PullRequest(repo="me/one", path=tmp_path / "back"))["kind"] == "prior"


@pytest.mark.parametrize("artifact", ["cache", "prior"])
def test_only_the_artifacts_own_files_are_pushed_and_pulled(
    hub: FakeHub, cache: Path, prior: Path, tmp_path: Path, artifact: str
) -> None:
    folder = {"cache": cache, "prior": prior}[artifact]
    pushed = push.run(PushRequest(path=folder, repo="me/clean"))
    ((kind, _),) = hub.repos
    clean = hub.files(kind, "me/clean")
    names = (".git/config", "model.pkl", "streams/video/c/evil.pkl", "label/c/0.pkl")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"stray")
    push.run(PushRequest(path=folder, repo="me/from-dirty"))
    assert hub.files(kind, "me/from-dirty") == clean
    hub.repos[kind, "me/clean"].commit("main", {**clean, **dict.fromkeys(names, b"stray")})
    pulled = pull.run(PullRequest(repo="me/clean", path=tmp_path / "back"))
    assert pulled["identity"] == pushed["identity"]
    found = {path.relative_to(tmp_path / "back").as_posix() for path in (tmp_path / "back").rglob("*")}
    assert {name for name in found if (tmp_path / "back" / name).is_file()} == set(clean)
    assert not any(".cache" in name or ".git" in name for name in found)


def test_a_model_and_a_data_set_of_one_name_are_told_apart(
    hub: FakeHub, cache: Path, prior: Path, tmp_path: Path
) -> None:
    for folder in (cache, prior):
        push.run(PushRequest(path=folder, repo="me/both"))
    with pytest.raises(HubError, match=r"hf://me/both for the model, or hf://datasets/me/both for the data set"):
        pull.run(PullRequest(repo="me/both", path=tmp_path / "back"))
    kinds = {
        repo: pull.run(PullRequest(repo=repo, path=tmp_path / f"{i}"))["kind"]
        for i, repo in enumerate(("hf://me/both", "hf://datasets/me/both"))
    }
    assert list(kinds.values()) == ["prior", "token cache"]
    with pytest.raises(HubError, match="cannot be a dataset repository"):
        push.run(PushRequest(path=prior, repo="hf://datasets/me/both"))


def test_a_refused_upload_is_a_clear_error(hub: FakeHub, prior: Path) -> None:
    hub.refuses_uploads = True
    with pytest.raises(HubError, match=r"me/prior: .*model\.safetensors"):
        push.run(PushRequest(path=prior, repo="me/prior"))
