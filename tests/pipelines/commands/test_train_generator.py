"""train-generator from its settings to its summary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_generator_runs import BETWEEN, BY_CLASS, CLASSES, DATA, NormalisedToy, make_videos, register, train

from tokenreel.config import to_mapping
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.decoders.generators.noise import sample_noise
from tokenreel.errors import CheckpointError, ConfigError, DataError, UserError
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.training.generator_config import GeneratorTrainingConfig
from tokenreel.testing.generators import random_conditions


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return make_videos(tmp_path / "videos.npz")


def test_a_class_conditional_generator_has_the_classes_of_the_training_videos(tmp_path: Path, videos: Path) -> None:
    train(videos, tmp_path / "run", BY_CLASS, steps=1)
    assert VideoGenerator.from_pretrained(tmp_path / "run").spec.classes == CLASSES
    train(videos, tmp_path / "without", [*BY_CLASS, "generator.class_conditional=false"], steps=1)
    assert VideoGenerator.from_pretrained(tmp_path / "without").spec.classes == ()


def test_held_out_clips_of_other_classes_are_not_scored(tmp_path: Path, videos: Path) -> None:
    held_out = train(videos, tmp_path / "run", BY_CLASS, steps=1)["held_out_clips"]
    with DecodePool(str(videos), 0) as pool:
        planned = plan_of(pool, DATA)
    with np.load(videos) as arrays:
        labels = arrays["labels"].tolist()
    for number, label in zip(planned.video[planned.rows("validation")[:2]].tolist(), ("drum", "egg"), strict=True):
        labels[number] = label
    (tmp_path / "others").mkdir()
    others = make_videos(tmp_path / "others/videos.npz", labels)
    summary = train(others, tmp_path / "other-run", BY_CLASS, steps=1)
    assert summary["held_out_clips"] == held_out - 2
    assert summary["alarms"] == ["2 held-out clips are not scored: no training video has their class"]


def test_videos_without_classes_are_refused_for_a_class_conditional_generator(tmp_path: Path, videos: Path) -> None:
    with np.load(videos) as arrays:
        np.save(tmp_path / "plain.npy", arrays["videos"])
    with pytest.raises(DataError, match=r"23 of 23 training videos have no class, e\.g\. plain/00: the class") as error:
        train(tmp_path / "plain.npy", tmp_path / "run", BY_CLASS)
    assert "\n" not in str(error.value)
    summary = train(tmp_path / "plain.npy", tmp_path / "run", BETWEEN, steps=1)
    assert summary["steps"] == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.discriminator_updates=0", r"training: discriminator_updates \(=0\) must be at least 1"),
        ("training.discriminator_learning_rate=0", r"discriminator_learning_rate \(=0\.0\) must be positive, or null"),
        ("training.discriminator_betas=[0.5, 1]", r"discriminator_betas \(=\(0\.5, 1\.0\)\) must be in \[0, 1\)"),
        ("training={ema_start: -1}", r"ema_start \(=-1\) must be 0 or more"),
        ("training={ema_start: 3, ema_decay: 0}", r"ema_start \(=3\) has no effect without ema_decay"),
        ("training.statistics_batches=-1", r"statistics_batches \(=-1\) must be 0 or more"),
        ("training.shared_clips=true", r"shared_clips requires discriminator_updates \(=2\) to be 1"),
        ("training.discriminator_update=3", r"did you mean 'discriminator_updates'"),
        ("training.batch=5", r"batch \(=5\) must be a multiple of processes x training.accumulate \(=1 x 2\)"),
        ("discriminators.widht=3", r"discriminators.*did you mean 'width'"),
        ("generator.type=toi", r"generator\.type: no generator is called 'toi'"),
        ("data.framing.height=7", r"framing\.height \(=7\) must be even"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, videos: Path, setting: str, message: str) -> None:
    settings = [*BY_CLASS, "training.accumulate=2", setting]
    with pytest.raises(UserError, match=message) as error:
        train(videos, tmp_path / "run", settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run/checkpoints").exists()


def test_settings_without_a_generator_say_where_to_get_one(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(ConfigError, match="no section 'generator': give --preset NAME"):
        train(videos, tmp_path / "run", [])


def test_a_dry_run_counts_the_clips_of_all_updates_and_writes_nothing(tmp_path: Path, videos: Path) -> None:
    estimate = train(videos, tmp_path / "run", BY_CLASS, steps=1000, dry_run=True)
    assert (estimate["clips"], estimate["training_clips"]) == (2 * 4000, 13)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos.npz"]


def test_a_run_folder_of_other_discriminators_is_refused(tmp_path: Path, videos: Path) -> None:
    train(videos, tmp_path / "run", BY_CLASS, steps=1)
    with pytest.raises(CheckpointError, match=r"started with discriminators\.width = 13, not 11"):
        train(videos, tmp_path / "run", [*BY_CLASS, "discriminators.width=11"], steps=2)
    summary = train(videos, tmp_path / "run", [*BY_CLASS, "training.statistics_batches=2"], steps=2)
    assert summary["resumed_from_step"] == 1


def test_a_batch_that_cannot_be_divided_leaves_no_folder_behind(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch \(=3\) must be a multiple"):
        train(videos, tmp_path / "run", [*BY_CLASS, "training.batch=3", "training.accumulate=2"], steps=1)
    assert not (tmp_path / "run").exists()


def test_a_new_run_starts_with_the_weights_of_a_saved_generator(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose layers are plain; here one is normalised again. Its settings and framing are the default."""
    register(monkeypatch, NormalisedToy)
    train(videos, tmp_path / "run", BY_CLASS, steps=3)
    saved = VideoGenerator.from_pretrained(tmp_path / "run")
    settings = ["data.validation=0.4", "training={learning_rate: 1.0e-12, batch: 4, statistics_batches: 3}"]
    new = {"steps": 1, "init_from": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match="says nothing of its discriminators and rates: give those"):
        train(videos, tmp_path / "tuned", [], assignments=settings, **new)
    settings.append("discriminators.width=13")
    summary = train(videos, tmp_path / "tuned", [], assignments=settings, **new)
    tuned = VideoGenerator.from_pretrained(tmp_path / "tuned")
    assert tuned.spec == saved.spec
    inputs = sample_noise(0, np.arange(5), saved.spec.noise), random_conditions(saved, 5)
    torch.testing.assert_close(tuned.generate(*inputs), saved.generate(*inputs), rtol=0, atol=1e-4)
    assert tuned.about["initialised_from"] == saved.weights_fingerprint == summary["init_from"]["weights"]
    with pytest.raises(ConfigError, match=r"hidden\.weight is \[13, 10\], here \[13, 7\]"):
        train(videos, tmp_path / "other", [], assignments=[*settings, "generator.class_conditional=false"], **new)


def test_resolved_settings_are_valid_settings() -> None:
    config = GeneratorTrainingConfig(ema_decay=0.5, ema_start=3, discriminator_betas=(0.0, 0.9))
    assert to_mapping(config)["discriminator_betas"] == [0.0, 0.9]
    assert config.of_discriminators.betas == (0.0, 0.9)
    assert isinstance(config.of_discriminators, GeneratorTrainingConfig)
