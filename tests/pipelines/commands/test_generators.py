"""sample and generate with saved toy generators: their videos equal what the generator makes of the same conditions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.decoders.generators.toy_generators import WIDTH, ToyGenerator, ToyGeneratorConfig
from torch import Tensor

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.sample_list import SampleList
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.tabletop.scene import CLASSES
from tokenreel.data.video.writer import write_video
from tokenreel.decoders.generators.base import GENERATORS, VideoGenerator, build_generator
from tokenreel.decoders.generators.conditions import Conditions, class_weights
from tokenreel.decoders.generators.noise import sample_noise
from tokenreel.errors import ConfigError, DataError, UserError
from tokenreel.pipelines.commands import generate, sample
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.requests.generation import GenerateRequest, SampleRequest

T, SIZE = 5, 14  # frames of a clip, pixels
DATA = f"tabletop:?videos=13&frames=11&size={SIZE}"  # of 2 clips each
NAMES = ("arm", "ball", "cup")


@dataclasses.dataclass(frozen=True)
class PlainToyConfig(ToyGeneratorConfig):
    type: str = "plain-toy"


class PlainToy(ToyGenerator):
    """Has no statistics to recompute."""

    config_class = PlainToyConfig
    set_statistics = VideoGenerator.set_statistics


KINDS: dict[str, tuple[ToyGeneratorConfig, tuple[str, ...]]] = {
    "noise": (PlainToyConfig(), ()),
    "classes": (ToyGeneratorConfig(), NAMES),
    "tabletop classes": (ToyGeneratorConfig(given_frames=1), CLASSES),
    "given": (ToyGeneratorConfig(given_frames=2), ()),
    "ends": (ToyGeneratorConfig(given_frames=1, end_frame=True), ()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A saved generator of each kind."""
    root = tmp_path_factory.mktemp("generators")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GENERATORS, "_members", {"toy": ToyGenerator, "plain-toy": PlainToy})
        for number, (name, (config, classes)) in enumerate(KINDS.items()):
            torch.manual_seed(number)
            generator = build_generator(dataclasses.asdict(config), T, Framing(SIZE, SIZE), classes)
            generator.norm.running_mean.copy_(torch.randn(WIDTH))
            generator.save_pretrained(root / name)
        yield root


@pytest.fixture(autouse=True)
def _decode_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """To start a process takes longer than all else here."""
    start = DecodePool.__init__
    monkeypatch.setattr(DecodePool, "__init__", lambda self, location, workers: start(self, location, 0))


def sampled(folder: Path, kind: str, out: Path, **flags: Any) -> np.ndarray:
    """The frames of samples, uint8 [N, T, H, W, 3]."""
    request = SampleRequest(generator=str(folder / kind), out=out, format="npy", **({"num": 7, "batch": 3} | flags))
    sample.run(request)
    return videos_in(out)


def generated(folder: Path, kind: str, out: Path, **flags: Any) -> np.ndarray:
    generate.run(GenerateRequest(generator=str(folder / kind), out=out, format="npy", **flags))
    return videos_in(out)


def videos_in(out: Path) -> np.ndarray:
    return np.stack([np.load(path) for path in sorted(out.glob("*.npy"))])


def expected(folder: Path, kind: str, noise: Tensor, conditions: Conditions) -> np.ndarray:
    return to_frames(VideoGenerator.from_pretrained(folder / kind).generate(noise, conditions))


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 1, "other batches may round differently"


def clips(rows: list[int]) -> np.ndarray:
    """Of the data, uint8 [n, T, H, W, 3]."""
    with DecodePool(DATA, workers=0) as pool:
        plan = plan_of(pool, DataConfig(Framing(SIZE, SIZE), T))
        return np.stack(
            [result.frames for result in pool.read(map(plan.request, rows), 1) if result.frames is not None]
        )


def test_samples_do_not_depend_on_their_number_or_batch(folder: Path, tmp_path: Path) -> None:
    few = sampled(folder, "noise", tmp_path / "few", seed=3)
    more = sampled(folder, "noise", tmp_path / "more", seed=3, num=11, batch=11)
    assert_same(more[:7], few)
    assert_same(few, expected(folder, "noise", sample_noise(3, np.arange(7), 7), Conditions()))
    assert len(np.unique(more, axis=0)) == 11
    assert not np.array_equal(few, sampled(folder, "noise", tmp_path / "other", seed=4))


def test_classes_are_in_turn_or_those_that_are_named(folder: Path, tmp_path: Path) -> None:
    spec = VideoGenerator.from_pretrained(folder / "classes").spec
    for flags, labels in (({}, [0, 1, 2, 0, 1, 2, 0]), ({"classes": ["cup", "arm"]}, [2, 0, 2, 0, 2, 0, 2])):
        out = tmp_path / str(len(flags))
        found = sampled(folder, "classes", out, **flags)
        conditions = Conditions(classes=class_weights(labels, spec))
        assert_same(found, expected(folder, "classes", sample_noise(0, np.arange(7), 7), conditions))
        listed = SampleList.open(out)
        assert [sample.label for sample in listed.samples] == labels
        assert listed.classes == NAMES


@pytest.mark.parametrize("kind", ["given", "ends", "tabletop classes"])
def test_conditions_are_those_of_the_clips_that_the_list_names(folder: Path, tmp_path: Path, kind: str) -> None:
    found = sampled(folder, kind, tmp_path / "out", data=DATA, split="train", num_clips=5, num=11)
    listed = SampleList.open(tmp_path / "out")
    spec = listed.spec
    rows = [sample.row for sample in listed.samples]
    assert len(set(rows)) == 5
    assert rows == (rows[:5] * 3)[:11]
    true = to_model(clips([row for row in rows if row is not None]))
    conditions = Conditions(
        given=true[:, :, : spec.given_frames],
        end=true[:, :, -1] if spec.end_frame else None,
        classes=class_weights([sample.label for sample in listed.samples], spec) if spec.classes else None,
    )
    assert_same(found, expected(folder, kind, sample_noise(0, np.arange(11), 7), conditions))
    assert np.array_equal(found[:, : spec.given_frames], to_frames(true)[:, : spec.given_frames])
    classes = {entry.id: entry.label for entry in open_source(DATA).entries}
    for entry in listed.samples:
        assert listed.classes[entry.label] == classes[str(entry.video)]
        assert entry.first_frame in (0, T)


def test_a_named_class_replaces_that_of_the_clip(folder: Path, tmp_path: Path) -> None:
    flags = {"data": DATA, "classes": ["wander", "sweep"], "num": 3}
    found = sampled(folder, "tabletop classes", tmp_path / "out", **flags)
    labels = [sample.label for sample in SampleList.open(tmp_path / "out").samples]
    assert labels == [CLASSES.index(name) for name in ("wander", "sweep", "wander")]
    spec = VideoGenerator.from_pretrained(folder / "tabletop classes").spec
    conditions = Conditions(given=to_model(found[:, :1]), classes=class_weights(labels, spec))
    assert_same(found, expected(folder, "tabletop classes", sample_noise(0, np.arange(3), 7), conditions))


def test_the_list_says_what_was_sampled_of_what(folder: Path, tmp_path: Path) -> None:
    sampled(folder, "given", tmp_path / "out", data=DATA, seed=5, truncation=0.5)
    listed, model = SampleList.open(tmp_path / "out"), VideoGenerator.from_pretrained(folder / "given")
    assert listed.spec == model.spec
    assert listed.provenance == {
        "generator": str(folder / "given"),
        "weights_fingerprint": model.weights_fingerprint,
        "truncation": 0.5,
        "statistics": "of 256 clips at truncation 0.5",
        "given_frames": 2,
        "given_controls": [],
        "data": DATA,
        "split": "validation",
        "plan_sha256": listed.provenance["plan_sha256"],
    }
    assert [(entry.file, entry.id, entry.seed, entry.sample) for entry in listed.samples[:2]] == [
        ("000000.npy", "sample-000000", 5, 0),
        ("000001.npy", "sample-000001", 5, 1),
    ]
    document = json.loads((tmp_path / "out/samples.json").read_text())
    for change in ({"format_version": 2}, {"samples": [{"file": "../x", "id": "", "seed": 0, "sample": 0}]}, {"a": 1}):
        (tmp_path / "out/samples.json").write_text(json.dumps(document | change))
        with pytest.raises(DataError, match=r"samples\.json"):
            SampleList.open(tmp_path / "out")
    with pytest.raises(DataError, match=r"has no samples\.json: give a folder"):
        SampleList.open(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"label": 99}, "has label 99 of 0 classes"),
        ({"label": -5}, "has label -5"),
        ({"sample": -3}, "sample -3"),
        ({"file": "000001.npy"}, "two samples have one file"),
        (None, "lists no samples"),
    ],
)
def test_a_damaged_list_of_samples_is_refused(
    folder: Path, tmp_path: Path, damage: dict[str, Any] | None, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "empty")  # an empty folder by its link will do
    sampled(folder, "noise", tmp_path / "out", num=2)
    path = tmp_path / "out/samples.json"
    document = json.loads(path.read_text())
    document["samples"] = [] if damage is None else [{**document["samples"][0], **damage}, document["samples"][1]]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        SampleList.open(tmp_path / "out")


def test_seeds_are_compared_on_the_same_clips(folder: Path, tmp_path: Path) -> None:
    rows = []
    for seed, num in ((0, 3), (1, 5)):
        sampled(folder, "given", tmp_path / str(seed), data=DATA, split="train", seed=seed, num=num)
        rows.append([sample.row for sample in SampleList.open(tmp_path / str(seed)).samples])
    assert rows[1][:3] == rows[0]


def test_truncation_scales_the_noise(folder: Path, tmp_path: Path) -> None:
    found = sampled(folder, "noise", tmp_path / "noise", seed=2, truncation=0.25)
    assert_same(found, expected(folder, "noise", sample_noise(2, np.arange(7), 7) * 0.25, Conditions()))
    assert SampleList.open(tmp_path / "noise").provenance["statistics"] == "as saved"


@pytest.mark.parametrize("kind", ["classes", "given"])
def test_statistics_are_recomputed_for_a_truncation(folder: Path, tmp_path: Path, kind: str) -> None:
    """Of what is sampled: other numbers of samples, batches, clips and classes have the same."""
    flags = {"seed": 2, "truncation": 0.25, **({"data": DATA, "split": "train"} if kind == "given" else {})}
    few = sampled(folder, kind, tmp_path / "few", num=2, **flags)
    other = {"num_clips": 3} if kind == "given" else {"classes": ["arm", "ball"]}
    more = sampled(folder, kind, tmp_path / "more", **other, **flags)
    assert_same(more[:2], few)
    model, listed = VideoGenerator.from_pretrained(folder / kind), SampleList.open(tmp_path / "more")
    assert listed.provenance["statistics"] == "of 256 clips at truncation 0.25"
    assert listed.provenance["weights_fingerprint"] == model.weights_fingerprint
    if kind == "given":
        return
    classes = class_weights([i % 3 for i in range(256)], model.spec)
    hidden = model.hidden(torch.cat([sample_noise(0, np.arange(256), 7) * 0.25, classes], 1))
    batches = hidden.unflatten(0, (-1, 16))
    model.norm.running_mean.copy_(batches.mean((0, 1)))
    model.norm.running_var.copy_(batches.var(1).mean(0))
    noise, labels = sample_noise(2, np.arange(7), 7) * 0.25, [0, 1, 0, 1, 0, 1, 0]
    assert_same(more, to_frames(model.generate(noise, Conditions(classes=class_weights(labels, model.spec)))))


def test_generate_begins_and_ends_with_the_given_frames(folder: Path, tmp_path: Path) -> None:
    start, goal = clips([0])[0], clips([3])[0][-1]
    write_video(tmp_path / "start.npy", start, 10.0)
    Image.fromarray(goal).save(tmp_path / "goal.png")
    flags = {"video": tmp_path / "start.npy", "end": tmp_path / "goal.png", "seed": 1, "num": 3, "batch": 2}
    found = generated(folder, "ends", tmp_path / "out", **flags)
    assert np.array_equal(found[:, 0], np.stack([start[0]] * 3))
    assert np.array_equal(found[:, -1], np.stack([goal] * 3))
    given, end = to_model(start[None, :1]).repeat(3, 1, 1, 1, 1), to_model(goal[None, None])[:, :, 0].repeat(3, 1, 1, 1)
    assert_same(found, expected(folder, "ends", sample_noise(1, np.arange(3), 7), Conditions(given, end)))
    sheet = np.asarray(Image.open(tmp_path / "out/contact_sheet.png"))
    assert sheet.shape == (3 * SIZE + 2 * 2, T * SIZE + (T - 1) * 2, 3)
    for row, column in np.ndindex(3, T):
        tile = sheet[row * (SIZE + 2) :, column * (SIZE + 2) :][:SIZE, :SIZE]
        assert np.array_equal(tile, found[row, column])


def test_between_seeds_and_classes_is_linear(folder: Path, tmp_path: Path) -> None:
    spec = VideoGenerator.from_pretrained(folder / "classes").spec
    weights = torch.linspace(0, 1, 5)[:, None]
    found = generated(folder, "classes", tmp_path / "a", between_seeds=(3, 8), class_name="ball", steps=5)
    first, last = (sample_noise(seed, np.zeros(1, int), 7) for seed in (3, 8))
    ball = Conditions(classes=class_weights([1] * 5, spec))
    assert_same(found, expected(folder, "classes", first + weights * (last - first), ball))
    found = generated(folder, "classes", tmp_path / "b", between_classes=("cup", "arm"), steps=5, seed=9)
    mixed = torch.cat([weights, torch.zeros(5, 1), 1 - weights], 1)
    noise = sample_noise(9, np.zeros(5, int), 7)
    assert_same(found, expected(folder, "classes", noise, Conditions(classes=mixed)))


def test_every_format_is_written(folder: Path, tmp_path: Path) -> None:
    for suffix in ("mp4", "gif", "png"):
        request = SampleRequest(generator=str(folder / "noise"), out=tmp_path / suffix, num=2, format=suffix)
        assert sample.run(request)["samples"] == 2
        assert {path.name for path in (tmp_path / suffix).iterdir()} == {
            "samples.json", f"000000.{suffix}", f"000001.{suffix}",
        }  # fmt: skip


def test_a_folder_that_is_not_empty_is_kept_and_a_failure_leaves_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    for make in (sampled, generated):
        with pytest.raises(UserError, match="already exists and is not empty"):
            make(folder, "noise", tmp_path / "full")
    monkeypatch.setattr(SampleList, "write", lambda *_: 1 / 0)  # after the videos
    with pytest.raises(ZeroDivisionError):
        sampled(folder, "noise", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "misspelt class": ("classes", {"classes": ["bal"]}, r"--class: no class is called 'bal'; did you mean 'ball'"),
    "class of none": ("noise", {"classes": ["ball"]}, r"--class ball: this generator has no classes, it makes 5 fr"),
    "no clips": ("given", {}, r"--data must be given: this generator makes .* 2 given frames"),
    "clips in vain": ("noise", {"data": DATA}, r"--data .*: this generator makes .* without clips: omit it"),
    "two sources of classes": ("classes", {"data": DATA, "classes": ["cup"]}, r"--class is not used with --data"),
    "classes of other data": ("classes", {"data": DATA}, r"--data: .* is of the class '.*', and the generator has arm"),
    "empty split": ("given", {"data": DATA, "split": "test"}, r"--split test: .* has no such clip among its 26"),
}


@pytest.mark.parametrize("name", WRONG)
def test_conditions_that_a_generator_does_not_have_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    kind, flags, message = WRONG[name]
    with pytest.raises((ConfigError, DataError), match=message):
        sampled(folder, kind, tmp_path / "out", **flags)
    assert not list(tmp_path.iterdir())


WRONG_FILES: dict[str, tuple[str, dict[str, Any], str]] = {
    "no start": ("ends", {"end": "goal.png"}, r"--video must be given as well: this generator makes .* an end frame"),
    "no end": ("ends", {"video": "start.npy"}, r"--end must be given as well"),
    "no start alone": ("given", {}, r"--video must be given: this generator makes"),
    "start in vain": ("noise", {"video": "start.npy"}, r"--video .*start.npy: this generator makes .*: omit it"),
    "end in vain": ("given", {"video": "start.npy", "end": "goal.png"}, r"--end .*goal.png: this generator .*: omit"),
    "one frame for two": ("given", {"video": "goal.png"}, r"--video .*goal.png: it has 1 frame, but 2 are needed"),
    "shapes": (
        "ends",
        {"video": "start.npy", "end": "wide.png"},
        r"--video .* of 14x14, and --end .*wide.png of 28x14",
    ),
    "no picture": ("ends", {"video": "start.npy", "end": "text.png"}, r"--end .*text.png: .* is not a readable image"),
    "class": ("classes", {"class_name": "cub"}, r"--class: no class is called 'cub'; did you mean 'cup'"),
    "classes": ("classes", {"between_classes": ("cup", "x")}, r"--between-classes: no class is called 'x'"),
    "no classes": ("noise", {"between_classes": ("cup", "arm")}, r"--between-classes cup: this generator has no clas"),
    "seeds of any class": ("classes", {"between_seeds": (0, 1)}, r"--between-seeds needs --class NAME"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_frames_and_classes_that_do_not_fit_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    kind, flags, message = WRONG_FILES[name]
    write_video(tmp_path / "start.npy", clips([0])[0], 10.0)
    for file, size in (("goal.png", (SIZE, SIZE)), ("wide.png", (2 * SIZE, SIZE))):
        Image.new("RGB", size).save(tmp_path / file)
    (tmp_path / "text.png").write_text("no picture")
    files = {key: tmp_path / value if key in ("video", "end") else value for key, value in flags.items()}
    with pytest.raises((ConfigError, DataError), match=message):
        generated(folder, kind, tmp_path / "out", **files)
    assert not (tmp_path / "out").exists()
