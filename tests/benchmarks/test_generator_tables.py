"""Samples, scores and tables of generators of pixels, with a generator whose clips are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.benchmarks.papers import grid
from tokenreel.benchmarks.papers.dvd_gan import class_score
from tokenreel.benchmarks.papers.dvd_gan import runs as dvd_gan
from tokenreel.benchmarks.papers.dvd_gan import tables as dvd_gan_tables
from tokenreel.benchmarks.papers.generators import LabelledClips, Setup, Sizes, held_out, labelled_clips, samples_of
from tokenreel.benchmarks.papers.grid import Scores
from tokenreel.benchmarks.papers.inbetweening import runs, tables
from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.spec import Framing
from tokenreel.data.tabletop.clip import CLASSES
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.decoders.generators.conditions import Conditions

SIZES = Sizes(steps=3, videos=7, frames=5, pixels=16, clips=11, samples=2)


@dataclass(frozen=True)
class FlatConfig:
    type: str = "flat"


class FlatGenerator(VideoGenerator):
    """Clips of one colour: red is the noise, green the class, blue the mean of the statistics' noise."""

    config_class = FlatConfig

    def __init__(self, given_frames: int = 0, end_frame: bool = False, classes: tuple[str, ...] = ()) -> None:
        size = Framing(SIZES.pixels, SIZES.pixels)
        super().__init__(FlatConfig(), GeneratorSpec(SIZES.frames, size, 1, given_frames, end_frame, classes))
        self.deviation = 0.0

    def forward(self, noise: Tensor, conditions: Conditions) -> Tensor:
        label = torch.zeros(len(noise)) if conditions.classes is None else conditions.classes.argmax(1) / 10
        colour = torch.stack([noise[:, 0].tanh(), label, torch.full_like(label, self.deviation)], 1)
        return colour[:, :, None, None, None].expand(-1, -1, SIZES.frames, SIZES.pixels, SIZES.pixels).clone()

    def set_statistics(self, batches) -> None:
        self.deviation = float(torch.cat([noise for noise, _ in batches]).std())


def setup_in(folder: Path, seed: int = 0) -> Setup:
    return Setup(folder, SIZES, seed)


def test_held_out_clips_are_none_of_the_training_data() -> None:
    training, held = labelled_clips(0, SIZES.videos, SIZES.frames, SIZES.pixels), held_out(SIZES)
    assert held.frames.shape == (11, 5, 16, 16, 3)
    assert not any((clip == other).all() for clip in training.frames for other in held.frames)


def test_samples_keep_given_frames_and_differ_by_noise_alone() -> None:
    clips = held_out(SIZES)
    made = samples_of(FlatGenerator(given_frames=1, end_frame=True), clips, 3)
    assert made.shape == (11, 3, 5, 16, 16, 3)
    np.testing.assert_array_equal(made[:, :, 0], np.stack([clips.frames[:, 0]] * 3, 1))
    np.testing.assert_array_equal(made[:, :, -1], np.stack([clips.frames[:, -1]] * 3, 1))
    assert len(np.unique(made[:, :, 2, 0, 0, 0])) > 25  # nearly all of 33 differ
    np.testing.assert_array_equal(samples_of(FlatGenerator(given_frames=1, end_frame=True), clips, 2), made[:, :2])


def test_samples_are_of_the_classes_of_their_clips_in_the_generator_s_order() -> None:
    clips, classes = held_out(SIZES), tuple(sorted(CLASSES))
    green = samples_of(FlatGenerator(classes=classes), clips, 1)[:, 0, 0, 0, 0, 1]
    expected = [classes.index(CLASSES[label]) / 10 for label in clips.labels]
    np.testing.assert_allclose(green / 127.5 - 1, expected, atol=0.005)


def test_truncation_scales_the_noise_and_the_statistics() -> None:
    clips = held_out(SIZES)
    whole, part = (samples_of(FlatGenerator(), clips, 1, truncation)[:, 0, 0, 0, 0] for truncation in (1.0, 0.5))
    noise = [np.arctanh((pixels[:, 0] / 127.5 - 1).clip(-0.99, 0.99)) for pixels in (whole, part)]
    np.testing.assert_allclose(noise[1], noise[0] / 2, atol=0.15)
    assert (whole[:, 2] / 127.5 - 1).max() < 0.01  # statistics as they were
    assert (part[:, 2] / 127.5 - 1).mean() == pytest.approx(0.5, abs=0.05)


def test_baselines_and_samples_in_a_folder_are_scored_alike(tmp_path: Path) -> None:
    true = held_out(SIZES).frames
    large = true.repeat(2, axis=2).repeat(2, axis=3)
    np.save(tmp_path / runs.TRUE, large)
    between = runs.cross_fade(true[:, 0], true[:, -1], SIZES.frames)
    np.save(tmp_path / runs.SAMPLES, between[:, None].repeat(2, axis=3).repeat(2, axis=4))
    setup = setup_in(tmp_path)
    fade = runs.Baseline(runs.CROSS_FADE).execute(setup)
    assert runs.OtherSystem("a fade", tmp_path).execute(setup) == pytest.approx(fade)
    assert fade["temporal_distance"] > runs.Baseline(runs.OTHER_TRUE).execute(setup)["temporal_distance"]
    assert fade["motion"] < 1


def test_samples_of_another_size_or_number_are_rejected(tmp_path: Path) -> None:
    np.save(tmp_path / runs.TRUE, held_out(SIZES).frames[:3])
    np.save(tmp_path / runs.SAMPLES, held_out(SIZES).frames[:3, None])
    with pytest.raises(SystemExit, match="the tables have 11"):
        runs.OtherSystem("few", tmp_path).execute(setup_in(tmp_path))
    with pytest.raises(SystemExit, match="cannot be averaged"):
        runs.shrunk(np.zeros((2, 24, 24, 3), np.uint8), 16)
    with pytest.raises(SystemExit, match="NAME=FOLDER"):
        tables.other_system("folder")


def test_blocks_are_averaged() -> None:
    video = np.random.default_rng(3).integers(0, 256, (2, 6, 9, 3), dtype=np.uint8)
    expected = video[:, 2:4, 3:6].astype(float).mean((1, 2))
    np.testing.assert_allclose(runs.shrunk(video, 3)[:, 1, 1], expected, atol=0.5001)


def test_repetition_has_no_motion_after_the_given_frames(tmp_path: Path) -> None:
    scores = dvd_gan.Repeated(1).execute(setup_in(tmp_path))
    assert scores["motion"] == 0
    assert scores["best_ssim"] == pytest.approx(scores["ssim"])


def test_a_classifier_is_trained_once_and_for_one_kind_of_clips(tmp_path: Path) -> None:
    file = tmp_path / "classifier.safetensors"
    first = class_score.trained(file, 5, 16, clips=70, steps=2)
    again = class_score.trained(file, 5, 16, clips=0)  # would fail if it were trained
    clips = held_out(SIZES)
    np.testing.assert_array_equal(first.predict(clips.frames), again.predict(clips.frames))
    assert set(first.predict(clips.frames)) <= set(range(len(CLASSES)))
    with pytest.raises(SystemExit, match="of other clips"):
        class_score.trained(file, 6, 16)


def test_the_class_score_is_the_fraction_of_samples_that_are_recognised() -> None:
    class Reader(class_score.Classifier):
        def predict(self, clips: np.ndarray) -> np.ndarray:
            return clips[:, 0, 0, 0, 0].astype(np.int64)

    samples = np.zeros((3, 2, 5, 16, 16, 3), np.uint8)
    samples[:, :, 0, 0, 0, 0] = [[1, 1], [2, 0], [7, 3]]
    assert dvd_gan.class_score(Reader(), samples, np.array([1, 2, 3])) == pytest.approx(4 / 6)
    assert Reader().score(LabelledClips(samples[:, 0], np.array([1, 0, 7]))) == pytest.approx(2 / 3)


class AnyScores(dict[str, float]):
    def __missing__(self, name: str) -> float:
        return float(len(name))

    def __contains__(self, name: object) -> bool:
        return True


def test_tables_have_a_line_for_each_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def finished(self: Setup, run: object) -> Scores:
        return AnyScores()

    monkeypatch.setattr(grid.Setup, "finished", finished)
    setups = [setup_in(tmp_path, seed) for seed in (0, 1)]
    rows = [tables.Row(title, runs.Sampled(run), setups) for run, title in tables.TITLES.items()]
    for table in tables.TABLES:
        lines = [line for line in table(rows, SIZES) if line.startswith("|")]
        assert len(lines) == 2 + len(rows)
        assert len({line.count("|") for line in lines}) == 1
    for name, count in {"synthesis": 12, "figure-6": 7, "prediction": 4}.items():
        lines = [line for line in dvd_gan_tables.TABLES[name](dvd_gan_tables.Results(setups)) if line.startswith("|")]
        assert len(lines) == 2 + count
        assert len({line.count("|") for line in lines}) == 1
