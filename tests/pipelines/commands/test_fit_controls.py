"""Controls: fitted on training clips, stored in the cache, published, given by a user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_hub import FakeHub

from tokenreel.data.cache.fill import ShardFiller
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.clips import ControlClip
from tokenreel.data.controls.sound import resample
from tokenreel.data.spec import Framing
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.data.video.writer import write_video
from tokenreel.errors import CacheError, ConfigError, DataError, HubError
from tokenreel.pipelines.commands import (
    decode,
    fit_controls,
    pull,
    push,
    repair,
    tabletop,
    tokenize_dataset,
    verify,
)
from tokenreel.pipelines.commands import inspect as inspect_path
from tokenreel.pipelines.generation.encode_controls import encode_given_controls
from tokenreel.pipelines.requests.artifacts import InspectRequest, PullRequest, PushRequest, VerifyRequest
from tokenreel.pipelines.requests.decoding import DecodeRequest
from tokenreel.pipelines.requests.program import TabletopRequest
from tokenreel.pipelines.requests.tokenizing import RepairRequest, TokenizeRequest
from tokenreel.pipelines.requests.training import FitControlsRequest
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import build_tokenizer
from tokenreel.tokenizers.controls.controls import Controls

FRAMES = 5  # of a clip; a video has 23
DATA = "tabletop:?videos=17&seed=3&frames=23&size=16"
CONFIG = """
data: {frames: 5, framing: {height: 16, width: 16}}
controls:
  class: {type: class}
  sound: {type: sound, codebook_size: 13, bands: 4, slices: 2, spectra: 1, rate: 2000, window: 128}
  state: {type: state, codebook_size: 11}
"""


def settings(folder: Path, text: str = CONFIG) -> Path:
    path = folder / "controls.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos of DATA as files, with an integer control of the user: the quarter in which the tip is."""
    path = tmp_path_factory.mktemp("files") / "videos"
    tabletop.run(TabletopRequest(directory=path, videos=17, seed=3, frames=23, size=16))
    lines = [line.split(",") for line in (path / "states.csv").read_text().splitlines()[1:]]
    rows = [f"{name},{frame},{2 * (float(y) > 0.5) + (float(x) > 0.5)}" for name, frame, x, y in lines]
    (path / "quarters.csv").write_text("\n".join(["file_name,frame,quarter", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokenizer") / "a"
    torch.manual_seed(0)
    section = {"type": "frame-vqvae", "hidden": 16, "residual": 8, "blocks": 1, "downsamplings": 2, "latent": 4}
    section["quantizer"] = {"type": "fsq", "levels": [7, 5, 5, 5]}
    spread_codes(build_tokenizer(section, FRAMES, Framing(16, 16))).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("controls")
    fit_controls.run(FitControlsRequest(config=settings(path), data=DATA, out=path / "a"))
    return path / "a"


@pytest.fixture(scope="module")
def reference(tokenizer: str, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "cache"
    tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, controls=str(fitted), data=DATA, out=out))
    return out


def files(path: Path, *parts: str) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and set(parts) <= set(file.relative_to(path).parts)
    }


def test_fitting_reports_codebook_usage_and_errors(fitted: Path, reference: Path, tmp_path: Path) -> None:
    summary = fit_controls.run(FitControlsRequest(config=settings(tmp_path), data=DATA, out=tmp_path / "x", workers=2))
    json.dumps(summary)
    figures = summary["controls"]
    assert list(figures) == ["class", "sound", "state"]
    assert figures["class"]["codebook_size"] == len(TokenCache.open(reference).classes)
    assert (figures["state"]["codebook_size"], figures["state"]["in_use"]) == (11, 11)
    assert 0 < figures["state"]["rms_error"] < 0.03  # the tip's range is 0.75; 11 equidistant codes err by 0.02
    assert 0 < figures["sound"]["relative_error"] < 0.1
    assert summary["clips"] == len(TokenCache.open(reference).rows("train"))
    assert files(tmp_path / "x") == files(fitted)  # byte for byte, for any number of workers
    assert Controls.from_pretrained(fitted).weights_fingerprint == summary["weights_fingerprint"]


def test_probes_are_kept_beside_out_for_the_next_call(folder: Path, tmp_path: Path) -> None:
    def kept() -> dict[str, bytes]:
        fit_controls.run(FitControlsRequest(config=settings(tmp_path), data=str(folder), out=tmp_path / "x"))
        return {file.name: file.read_bytes() for file in (tmp_path / "x.probes").glob("*")}

    first = kept()
    assert first
    shutil.rmtree(tmp_path / "x")
    assert kept() == first  # a process that probed again would add a file of its own


def test_rows_hold_the_tokens_of_their_controls(reference: Path, fitted: Path) -> None:
    """Compared with the encoders applied to the ground truth of Tabletop."""
    cache, controls = TokenCache.open(reference), Controls.from_pretrained(fitted)
    config = TabletopConfig(height=16, width=16, frames=23, seed=3)
    codes = cache.read(range(cache.row_count))
    for row in range(0, cache.row_count, 7):
        clip = tabletop_clip(config, int(cache.column("source")[row]))
        first = int(cache.column("first_frame")[row])
        samples = resample(clip.sound, clip.sample_rate, 2000)[first * 200 : (first + FRAMES) * 200]
        state = clip.state[first : first + FRAMES]
        expected = controls.encode({"class": clip.class_name, "sound": samples.reshape(FRAMES, 200), "state": state})
        for name, indices in expected.items():
            np.testing.assert_array_equal(codes[name][row], indices)
    assert [stream.name for stream in cache.spec.streams] == ["video", "class", "sound", "state"]
    assert [stream.encoder_fingerprint for stream in cache.spec.streams[1:]] == [
        s.encoder_fingerprint for s in controls.streams(FRAMES)
    ]


def test_controls_do_not_change_the_tokens_of_the_video(reference: Path, tokenizer: str, tmp_path: Path) -> None:
    tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "x"))
    with_controls, without = TokenCache.open(reference), TokenCache.open(tmp_path / "x")
    assert files(tmp_path / "x/streams/video", "c") == files(reference / "streams/video", "c")
    assert with_controls.code_fingerprint == without.code_fingerprint
    assert "controls" not in without.provenance


def test_two_workers_that_complete_a_cache_write_the_same_bytes(
    reference: Path, tokenizer: str, fitted: Path, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"tokenizer": tokenizer, "controls": str(fitted), "data": DATA, "out": tmp_path / "x"}
    tokenize_dataset.run(TokenizeRequest(**flags, shard_index=1, num_shards=2))  # the other shards are written later
    assert TokenCache.open(tmp_path / "x", allow_partial=True).cache_id is None
    assert tokenize_dataset.run(TokenizeRequest(**flags, workers=2))["sealed"]
    assert files(tmp_path / "x", "c") == files(reference, "c")
    assert TokenCache.open(tmp_path / "x").cache_id == TokenCache.open(reference).cache_id


def test_other_controls_do_not_continue_a_cache(reference: Path, tokenizer: str, tmp_path: Path) -> None:
    fit_controls.run(
        FitControlsRequest(
            config=settings(tmp_path), assignments=["controls.state.codebook_size=7"], data=DATA, out=tmp_path / "x"
        )
    )
    for controls in (None, str(tmp_path / "x")):
        with pytest.raises(CacheError, match="holds another token cache: its spec"):
            tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, controls=controls, data=DATA, out=reference))


def test_a_cache_of_files_with_a_control_of_the_user(folder: Path, tokenizer: str, tmp_path: Path) -> None:
    text = CONFIG + "  quarter: {type: integers, file: quarters.csv, column: quarter, codebook_size: 4}\n"
    fit_controls.run(FitControlsRequest(config=settings(tmp_path, text), data=str(folder), out=tmp_path / "controls"))
    flags: dict[str, Any] = {"tokenizer": tokenizer, "controls": str(tmp_path / "controls"), "data": str(folder)}
    tokenize_dataset.run(TokenizeRequest(**flags, out=tmp_path / "x"))
    halves = [
        tokenize_dataset.run(TokenizeRequest(**flags, out=tmp_path / "y", shard_index=i, num_shards=2)) for i in (1, 0)
    ]
    assert halves[1]["sealed"]
    assert files(tmp_path / "x", "c") == files(tmp_path / "y", "c")
    cache, controls = TokenCache.open(tmp_path / "x"), Controls.from_pretrained(tmp_path / "controls")
    codes = cache.read(cache.rows())
    states = controls.encoder("state").decode(codes["state"][7])
    expected = 2 * (states[:, 1] > 0.5) + (states[:, 0] > 0.5)
    sure = (np.abs(states - 0.5) > 0.05).all(axis=1)
    assert sure.any()
    np.testing.assert_array_equal(codes["quarter"][7][sure, 0, 0, 0], expected[sure])
    labels = [cache.classes[label] for label in cache.labels(cache.rows())]
    assert [controls.encoder("class").decode(code) for code in codes["class"]] == labels


def test_a_changed_table_does_not_continue_a_cache(folder: Path, tokenizer: str, tmp_path: Path) -> None:
    """Neither by tokenizing nor by repairing, as only some shards would have the new numbers."""
    shutil.copytree(folder, tmp_path / "videos")
    text = CONFIG.replace("  class: {type: class}\n", "").replace("  sound:", "  # sound:")
    fit_controls.run(FitControlsRequest(config=settings(tmp_path, text), data=str(folder), out=tmp_path / "controls"))
    flags: dict[str, Any] = {"tokenizer": tokenizer, "controls": str(tmp_path / "controls"), "out": tmp_path / "x"}
    tokenize_dataset.run(TokenizeRequest(**flags, data=str(tmp_path / "videos"), shard_index=0, num_shards=2))
    table = tmp_path / "videos/states.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line.rsplit(",", 1)[0] + ",0.5" for line in lines[1:])]) + "\n")
    for attempt in (
        partial(tokenize_dataset.run, TokenizeRequest(**flags, data=str(tmp_path / "videos"))),
        partial(repair_damaged, tmp_path / "x"),
    ):
        with pytest.raises(DataError, match=r"states\.csv has changed since .*x was started \(sha256 [0-9a-f]{12}"):
            attempt()
    table.write_text("\n".join(lines) + "\n")
    assert tokenize_dataset.run(TokenizeRequest(**flags, data=str(tmp_path / "videos")))["sealed"]


def repair_damaged(path: Path) -> None:
    shard = next(file for file in (path / "streams/state/c").rglob("*") if file.is_file())
    shard.write_bytes(shard.read_bytes()[::-1])
    repair.run(RepairRequest(path=path))


def test_contacts_in_files_have_other_sound_tokens_than_silence(folder: Path, tmp_path: Path) -> None:
    """After AAC coding, at least 95 % of the frames with contacts have other tokens than silence."""
    fit_controls.run(FitControlsRequest(config=settings(tmp_path), data=str(folder), out=tmp_path / "x"))
    controls = Controls.from_pretrained(tmp_path / "x")
    silence = controls.encoder("sound").encode(np.zeros((1, 200), np.float32))[0]
    audible = []
    contacts = [line.split(",") for line in (folder / "contacts.csv").read_text().splitlines()[1:]]
    for name in {row[0] for row in contacts}:
        codes = encode_given_controls(controls, {"sound": str(folder / name)}, {"sound": 23})["sound"][0].numpy()
        audible += [bool((codes[int(frame)] != silence).any()) for other, frame, *_ in contacts if other == name]
    assert len(audible) > 10
    assert np.mean(audible) >= 0.95


def test_a_video_without_sound_is_quarantined(folder: Path, tokenizer: str, fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "videos")
    name = next(path.relative_to(folder) for path in sorted(folder.rglob("*.mp4")))
    write_video(tmp_path / "videos" / name, np.zeros((23, 16, 16, 3), np.uint8), 10.0)
    flags: dict[str, Any] = {"tokenizer": tokenizer, "controls": str(fitted), "data": str(tmp_path / "videos")}
    with pytest.raises(
        DataError, match=r"--max-bad-fraction \(=0\.05\), such as .*000.*no-sound \(the file has no sound stream\)"
    ):
        tokenize_dataset.run(TokenizeRequest(**flags, out=tmp_path / "x"))
    summary = tokenize_dataset.run(TokenizeRequest(**flags, out=tmp_path / "x", max_bad_fraction=0.1))
    assert summary["quarantined"] == 4
    assert all("no-sound" in row for row in summary["quarantined_rows"])
    cache = TokenCache.open(tmp_path / "x")
    bad = np.setdiff1d(np.arange(cache.row_count), cache.rows())
    for name, layout in cache.header.streams.items():
        stored = np.asarray(cache._streams[name].read(bad.tolist()))
        assert (stored == layout.fill_value).all()
    for path in (tmp_path / "videos").rglob("*.mp4"):
        write_video(path, np.zeros((23, 16, 16, 3), np.uint8), 10.0)
    with pytest.raises(DataError, match=r"no-sound.* clips lack their controls"):
        fit_controls.run(
            FitControlsRequest(config=settings(tmp_path), data=str(tmp_path / "videos"), out=tmp_path / "y")
        )


def test_an_integer_out_of_range_is_refused(folder: Path, tmp_path: Path) -> None:
    text = CONFIG + "  quarter: {type: integers, file: quarters.csv, column: quarter, codebook_size: 3}\n"
    with pytest.raises(
        DataError,
        match=r"\d\.mp4: control 'quarter': quarter \(=3\) in frame \d of a clip must be an integer from 0 to 2",
    ):
        fit_controls.run(
            FitControlsRequest(config=settings(tmp_path, text), data=str(folder), out=tmp_path / "controls")
        )


def test_repair_restores_control_streams(reference: Path, fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "x")
    shard = next(path for path in (tmp_path / "x/streams/state/c").rglob("*") if path.is_file())
    shard.unlink()
    repair.run(RepairRequest(path=tmp_path / "x"))
    assert verify.run(VerifyRequest(path=tmp_path / "x"))["cache_id"] == TokenCache.open(reference).cache_id
    shard.unlink()
    (tmp_path / "x/origin.json").write_text("{}")
    with pytest.raises(CacheError, match="--data, and --controls for its controls"):
        repair.run(RepairRequest(path=tmp_path / "x", data=DATA, tokenizer="somewhere"))


def test_inspect_and_decode_take_a_cache_with_controls(reference: Path, tokenizer: str, tmp_path: Path) -> None:
    summary = inspect_path.run(InspectRequest(path=reference))
    assert summary["streams"]["state"] == "control, uint8 [5, 1, 2, 1] per row, codebook size 11"
    assert summary["codebook_usage"]["state"]["in_use"] == [11]
    decoded = decode.run(DecodeRequest(tokens=reference, tokenizer=tokenizer, out=tmp_path / "x", format="npy"))
    assert decoded["frames"] == 17 * 4 * FRAMES


def test_caches_of_whole_videos_store_frame_level_controls_only(
    tokenizer: str, fitted: Path, reference: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot store the control 'class', which belongs to a clip"):
        tokenize_dataset.run(
            TokenizeRequest(tokenizer=tokenizer, controls=str(fitted), data=DATA, out=tmp_path / "x", whole_videos=True)
        )
    text = CONFIG.replace("  class: {type: class}\n", "")
    fit_controls.run(FitControlsRequest(config=settings(tmp_path, text), data=DATA, out=tmp_path / "y"))
    tokenize_dataset.run(
        TokenizeRequest(
            tokenizer=tokenizer, controls=str(tmp_path / "y"), data=DATA, out=tmp_path / "z", whole_videos=True
        )
    )
    videos, clips = TokenCache.open(tmp_path / "z"), TokenCache.open(reference)
    for name in ("video", "sound", "state"):
        np.testing.assert_array_equal(videos.read(videos.rows())[name], clips.read(clips.rows())[name])


def test_controls_are_pushed_and_pulled_with_their_identity(
    hub: FakeHub, fitted: Path, tokenizer: str, tmp_path: Path
) -> None:
    pushed = push.run(PushRequest(path=fitted, repo="me/controls"))
    pulled = pull.run(PullRequest(repo="me/controls", path=tmp_path / "back"))
    assert (pulled["kind"], pulled["identity"]) == ("controls", pushed["identity"])
    assert verify.run(VerifyRequest(path=tmp_path / "back"))["weights_fingerprint"] == pushed["identity"]
    assert inspect_path.run(InspectRequest(path=fitted))["model"]["kind"] == "controls"
    flags: dict[str, Any] = {"tokenizer": tokenizer, "controls": "me/controls", "data": DATA}
    push.run(PushRequest(path=fitted, repo="me/controls", revision="kept"))
    assert tokenize_dataset.run(TokenizeRequest(**flags, out=tmp_path / "x"))["sealed"]
    assert tokenize_dataset.run(TokenizeRequest(**flags, controls_revision="kept", out=tmp_path / "y", workers=2))[
        "sealed"
    ]
    with pytest.raises(HubError, match="me/controls has no revision 'gone'"):
        tokenize_dataset.run(TokenizeRequest(**flags, controls_revision="gone", out=tmp_path / "z"))


def test_given_controls_are_encoded_as_in_the_cache(folder: Path, fitted: Path, tmp_path: Path) -> None:
    """A class by name, states as a CSV file, sound from the video file."""
    controls = Controls.from_pretrained(fitted)
    clip = tabletop_clip(TabletopConfig(height=16, width=16, frames=23, seed=3), 2)
    name = f"{clip.class_name}/{clip.index:06d}.mp4"
    lines = [f"{frame},{y},{x}" for frame, (x, y) in enumerate(clip.state)]
    (tmp_path / "states.csv").write_text("\n".join(["frame,y,x", *lines]) + "\n")
    given = {"class": clip.class_name, "state": str(tmp_path / "states.csv"), "sound": str(folder / name)}
    codes = encode_given_controls(controls, given, dict.fromkeys(given, 23))
    assert {name: tuple(code.shape) for name, code in codes.items()} == {
        "class": (1, 1, 1, 1, 1),
        "state": (1, 23, 1, 2, 1),
        "sound": (1, 23, 4, 2, 1),
    }
    np.testing.assert_array_equal(codes["state"][0], controls.encode({"state": clip.state})["state"])
    assert controls.encoder("class").decode(codes["class"][0].numpy()) == clip.class_name
    with pytest.raises(DataError, match=r"control 'state', .*it has 23 frames, but 22 are needed"):
        encode_given_controls(controls, {"state": given["state"]}, {"state": 22})
    with pytest.raises(DataError, match=r"control 'sound', .*lasts 2\.\d+ s, its frames need 2\.90 s"):
        encode_given_controls(controls, {"sound": given["sound"]}, {"sound": 30})
    with pytest.raises(DataError, match="class 'sweeps' is not known; did you mean 'sweep'"):
        encode_given_controls(controls, {"class": "sweeps"}, {"class": 23})
    with pytest.raises(DataError, match="its sound cannot be read: unreadable"):
        encode_given_controls(controls, {"sound": given["state"]}, {"sound": 23})
    (tmp_path / "pixels.csv").write_text("\n".join(["frame,y,x", *[f"{i},30,30" for i in range(23)]]))
    with pytest.raises(DataError, match=r"x \(=30\) in frame 0 is far outside of the training data's range"):
        encode_given_controls(controls, {"state": str(tmp_path / "pixels.csv")}, {"state": 23})
    with pytest.raises(ConfigError, match="no control is called 'sounds'"):
        encode_given_controls(controls, {"sounds": "x"}, {"sounds": 23})


def test_a_data_set_without_the_controls_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((7, 16, 16, 3), np.uint8), 10.0)
    flags: dict[str, Any] = {"config": settings(tmp_path), "data": str(tmp_path / "a.mp4"), "out": tmp_path / "x"}
    with pytest.raises(DataError, match="needs classes, but this data set has none"):
        fit_controls.run(FitControlsRequest(**flags))
    assert not (tmp_path / "x").exists()
    (tmp_path / "none.yaml").write_text("data: {frames: 5, framing: {height: 16, width: 16}}\n")
    with pytest.raises(ConfigError, match="no section 'controls'"):
        fit_controls.run(FitControlsRequest(**{**flags, "config": tmp_path / "none.yaml"}))


class Cut(Exception):
    pass


def test_a_run_interrupted_in_its_controls_is_continued(
    reference: Path, tokenizer: str, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: dict[str, Any] = {"tokenizer": tokenizer, "controls": str(fitted), "data": DATA, "out": tmp_path / "x"}
    read = ShardFiller._control_inputs

    def breaks(self: ShardFiller, *args: Any) -> Iterator[list[ControlClip] | DecodeFailure]:
        for number, inputs in enumerate(read(self, *args)):
            if number == 13:
                raise Cut
            yield inputs

    monkeypatch.setattr(ShardFiller, "_control_inputs", breaks)
    with pytest.raises(Cut):
        tokenize_dataset.run(TokenizeRequest(**flags))
    assert TokenCache.open(tmp_path / "x", allow_partial=True).shards
    monkeypatch.undo()
    assert tokenize_dataset.run(TokenizeRequest(**flags))["rows"] < 17 * 4
    assert files(tmp_path / "x", "c") == files(reference, "c")
