"""Adversarial training of a generator: which clips, noise and rates each update has, and what is exported."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.decoders.generators.toy_generators import ToyAdversary, ToyGenerator
from torch import Tensor
from toy_generator_runs import BETWEEN, BY_CLASS, CLASSES, DATA, FRAMES, HEIGHT, WIDTH, make_videos, register, train

from tokenreel.data.clips import ClipReader
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_frames, to_model
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.decoders.generators.conditions import Conditions, class_weights
from tokenreel.decoders.generators.noise import sample_noise
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.training.generator_config import GeneratorTrainingConfig
from tokenreel.pipelines.training.generator_objective import GeneratorBatch, GeneratorObjective
from tokenreel.pipelines.training.generator_scores import GeneratorScores
from tokenreel.pipelines.training.losses import NonFiniteLoss
from tokenreel.pipelines.training.run_folder import read_metrics
from tokenreel.sample_random import SampleRandom


class Killed(BaseException):
    """Nothing handles it, so that a run ends where it is raised."""


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return make_videos(tmp_path / "videos.npz")


def last_files(run: Path, step: int = 5) -> Any:
    return json.loads((run / f"checkpoints/step_{step:08d}/manifest.json").read_text())["files"]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, update: int, action: Any) -> None:
    """Calls `action` before the update of that number, counted over all steps."""
    original, calls = GeneratorObjective.losses, iter(range(10**6))

    def losses(self: GeneratorObjective, *arguments: Any) -> dict[str, Tensor]:
        if next(calls) == update:
            action()
        return original(self, *arguments)

    monkeypatch.setattr(GeneratorObjective, "losses", losses)


def kill() -> None:
    raise Killed


def test_a_run_that_is_killed_or_stopped_at_any_update_ends_with_the_same_bytes(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step has three updates, and checkpoints are written after steps 2 and 4."""
    train(videos, tmp_path / "reference", BY_CLASS)
    for update in (7, 8):
        with monkeypatch.context() as patch:
            interrupt_at(patch, update, kill)
            with pytest.raises(Killed):
                train(videos, tmp_path / f"killed-{update}", BY_CLASS)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt, match="stopped at step 3"):
            train(videos, tmp_path / "stopped", BY_CLASS)
    assert VideoGenerator.from_pretrained(tmp_path / "stopped").about["steps"] == 3
    reference = (tmp_path / "reference/model.safetensors").read_bytes()
    for name in ("killed-7", "killed-8", "stopped"):
        train(videos, tmp_path / name, BY_CLASS)
        assert last_files(tmp_path / name) == last_files(tmp_path / "reference"), name
        assert (tmp_path / name / "model.safetensors").read_bytes() == reference
    assert {"optimizer_discriminators.safetensors", "network_watch.safetensors"} <= last_files(tmp_path / name).keys()


def record_updates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, GeneratorBatch, Tensor, Tensor | None]]:
    """Of each update its name, its batch, its noise, and the generated clips that its losses judged."""
    seen: list[Any] = []
    original = GeneratorObjective.losses

    def losses(self: GeneratorObjective, update: str, batch: GeneratorBatch, random: SampleRandom) -> dict[str, Tensor]:
        seen.append([update, batch, random.restarted().randn(self.spec.noise), None])
        return original(self, update, batch, random)

    def judged(method: str, place: int) -> None:
        inner = getattr(ToyAdversary, method)

        def method_of(self: ToyAdversary, *arguments: Any) -> dict[str, Tensor]:
            seen[-1][3] = arguments[place]
            result: dict[str, Tensor] = inner(self, *arguments)
            return result

        monkeypatch.setattr(ToyAdversary, method, method_of)

    monkeypatch.setattr(GeneratorObjective, "losses", losses)
    judged("discriminator_losses", 1)
    judged("generator_losses", 0)
    return seen


def test_repeated_updates_have_clips_and_noise_of_their_own(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_updates(monkeypatch)
    summary = train(videos, tmp_path / "run", [*BY_CLASS, "training.random_start=false"], steps=2)
    assert [update for update, *_ in seen] == ["discriminators", "discriminators", "generator"] * 2
    assert summary["clips"] == 2 * 2 * 4
    assert seen[2][1] is seen[0][1], "the generator's update has the conditions of the first batch"
    shown = torch.cat([seen[number][1].real for number in (0, 1, 3, 4)]).flatten(1)
    assert len(shown.unique(dim=0)) == 13, "an epoch, of 13 clips, has each of them once"
    noises = torch.cat([noise for _, _, noise, _ in seen])
    assert len(noises.unique(dim=0)) == len(noises) == 6 * 4
    lines = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if "train/discriminators/logistic" in line]
    assert len(lines) == 2


def test_a_repeated_updates_losses_are_logged_as_means(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, float]] = []
    original = GeneratorObjective.losses

    def losses(self: GeneratorObjective, *arguments: Any) -> dict[str, Tensor]:
        result = original(self, *arguments)
        found.append({name: float(loss.detach()) for name, loss in result.items()})
        return result

    monkeypatch.setattr(GeneratorObjective, "losses", losses)
    train(videos, tmp_path / "run", BY_CLASS, steps=1)
    (line,) = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if "train/generator/adversarial" in line]
    first, second, last = found
    mean = (first["discriminators/logistic"] + second["discriminators/logistic"]) / 2
    assert line["train/discriminators/logistic"] == pytest.approx(mean, rel=1e-6)
    assert line["train/generator/adversarial"] == pytest.approx(last["generator/adversarial"], rel=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_both_updates_judge_the_same_clips_only_if_they_are_shared(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    seen = record_updates(monkeypatch)
    passes: list[bool] = []
    forward = ToyGenerator.forward
    monkeypatch.setattr(ToyGenerator, "forward", lambda *a: passes.append(torch.is_grad_enabled()) or forward(*a))
    settings = [*BETWEEN, f"training.shared_clips={shared}", "training.accumulate=2", "training.statistics_batches=0"]
    train(videos, tmp_path / "run", settings, steps=1)
    (_, batch, _, first), (*_, other), (*_, later), (*_, last) = seen
    assert torch.equal(first, later) == torch.equal(other, last) == shared
    assert not first.requires_grad
    assert later.requires_grad
    assert batch.fake is None, "its graph is freed"
    in_training = passes[: 2 if shared else 4]
    assert in_training == ([True, True] if shared else [False, False, True, True])


def test_each_update_has_its_own_rate_and_betas_and_changes_its_own_network(videos: Path) -> None:
    with DecodePool(str(videos), 0) as pool:
        rates = {"learning_rate": 0.3, "betas": (0.0, 0.9), "discriminator_learning_rate": 0.7}
        objective = make_objective(pool, **rates, discriminator_betas=(0.5, 0.999))
        optimizers = objective.optimizers()
        found = {name: (o.defaults["lr"], o.defaults["betas"]) for name, o in optimizers.items()}
        assert found == {"generator": (0.3, (0.0, 0.9)), "discriminators": (0.7, (0.5, 0.999))}
        rows = objective.rows[:3]
        for update, other in (("discriminators", "generator"), ("generator", "discriminators")):
            losses = objective.losses(update, objective.batch(rows, rows), SampleRandom(0, rows, torch.device("cpu")))
            torch.stack(list(losses.values())).sum().backward()
            assert all(p.grad is not None for p in objective.networks[update].parameters())
            assert all(p.grad is None for p in objective.networks[other].parameters())
            objective.networks[update].zero_grad()
        same = make_objective(pool, learning_rate=0.3, betas=(0.1, 0.9)).optimizers()["discriminators"]
        assert (same.defaults["lr"], same.defaults["betas"]) == (0.3, (0.1, 0.9))


def make_objective(pool: DecodePool, **training: Any) -> GeneratorObjective:
    """Of the toy with classes."""
    plan = plan_of(pool, DATA)
    generator = ToyGenerator(ToyGenerator.config_class(), FRAMES, DATA.framing, CLASSES)
    config, reader = GeneratorTrainingConfig(**training), ClipReader(plan, pool, 1.0)
    return GeneratorObjective(generator, generator.new_adversary({}), plan, reader, config, torch.device("cpu"))


def test_conditions_are_those_of_the_clips(videos: Path) -> None:
    with DecodePool(str(videos), 0) as pool:
        objective = make_objective(pool, random_start=True)
        batch = objective.batch(objective.rows, objective.rows)
        names = [CLASSES[int(objective.clips.plan.video_id(row)[-2:]) % 3] for row in objective.rows.tolist()]
    labels = [CLASSES.index(name) for name in names]
    assert batch.conditions.classes is not None
    assert torch.equal(batch.conditions.classes, class_weights(labels, objective.spec))
    assert len(set(labels)) == 3


def test_before_ema_start_the_average_is_the_current_weights(tmp_path: Path, videos: Path) -> None:
    train(videos, tmp_path / "run", [*BY_CLASS, "training={ema_decay: 0.75, checkpoint_every: 1}"], steps=4)
    averages, weights = ([load(tmp_path, step, name) for step in range(1, 5)] for name in ("average", "weights"))
    for number in (0, 1):
        assert torch.equal(averages[number], weights[number])
    for number in (2, 3):
        expected = 0.75 * averages[number - 1] + 0.25 * weights[number]
        torch.testing.assert_close(averages[number], expected)
    assert not torch.equal(averages[2], weights[2])


def load(tmp_path: Path, step: int, which: str) -> Tensor:
    folder = tmp_path / f"run/checkpoints/step_{step:08d}"
    average, weights = load_file(folder / "average.safetensors"), load_file(folder / "network_generator.safetensors")
    return average["generator.hidden.weight"] if which == "average" else weights["hidden.weight"]


def test_the_exported_generator_makes_the_clips_that_were_validated(tmp_path: Path, videos: Path) -> None:
    summary = train(videos, tmp_path / "run", [*BETWEEN, "training.ema_decay=0.9"])
    exported = VideoGenerator.from_pretrained(tmp_path / "run")
    scores = GeneratorScores(exported.spec)
    with DecodePool(str(videos), 0) as pool:
        plan = plan_of(pool, DATA)
        held_out = ClipReader(plan, pool, 1.0).read(plan.rows("validation"))
    for number, clip in enumerate(held_out):
        video = to_model(clip[None])
        noise = sample_noise(7, np.array([number]), exported.spec.noise)
        made = exported.generate(noise, Conditions(given=video[:, :, :2], end=video[:, :, -1]))
        scores.update(clip, to_frames(made)[0])
    for name in ("psnr", "ssim", "spread", "motion"):
        assert scores.compute()[name] == summary[name] == exported.about["scores"][name], name
    assert (summary["held_out_clips"], summary["held_out_videos"]) == (len(held_out), len(held_out))


def test_exported_statistics_are_those_of_fixed_noises_and_training_keeps_its_own(tmp_path: Path, videos: Path) -> None:
    """A run that validates and samples after every step trains as one that does so at its end."""
    often = [*BY_CLASS, "training={validate_every: 1, sample_every: 1}"]
    train(videos, tmp_path / "often", often)
    train(videos, tmp_path / "run", BY_CLASS)
    assert last_files(tmp_path / "often") == last_files(tmp_path / "run")
    trained = load_file(tmp_path / "run/checkpoints/step_00000005/network_generator.safetensors")
    exported = load_file(tmp_path / "run/model.safetensors")
    assert not torch.allclose(exported["norm.running_mean"], trained["norm.running_mean"])
    train(videos, tmp_path / "none", [*BY_CLASS, "training.statistics_batches=0"])
    kept = load_file(tmp_path / "none/model.safetensors")
    assert torch.equal(kept["norm.running_mean"], trained["norm.running_mean"])


def test_discriminators_that_become_nan_stop_the_run_with_the_last_good_weights(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adversaries: list[ToyAdversary] = []
    original = ToyAdversary.discriminator_losses

    def losses(self: ToyAdversary, *arguments: Any) -> dict[str, Tensor]:
        adversaries.append(self)
        return original(self, *arguments)

    def poison() -> None:
        with torch.no_grad():
            next(adversaries[-1].parameters()).fill_(float("nan"))

    monkeypatch.setattr(ToyAdversary, "discriminator_losses", losses)
    interrupt_at(monkeypatch, 10, poison)  # in step 4
    with pytest.raises(NonFiniteLoss, match=r"is nan at step 4.* now holds the model of step 2") as error:
        train(videos, tmp_path / "run", BY_CLASS)
    assert "\n" not in str(error.value)
    exported = VideoGenerator.from_pretrained(tmp_path / "run")
    assert exported.about["steps"] == 2
    assert all(tensor.isfinite().all() for tensor in exported.state_dict().values())


def test_samples_are_of_fixed_noises_or_beside_the_true_clips(tmp_path: Path, videos: Path) -> None:
    train(videos, tmp_path / "classes", BY_CLASS, steps=1)
    train(videos, tmp_path / "between", BETWEEN, steps=1)
    names = {
        run: sorted(path.name for path in (tmp_path / run / "samples").glob("*/*")) for run in ("classes", "between")
    }
    assert names == {
        "classes": ["sample_00.mp4", "sample_01.mp4"],
        "between": ["clip_00.mp4", "clip_01.mp4"],
    }


def test_pictures_show_the_samples(tmp_path: Path, videos: Path) -> None:
    with DecodePool(str(videos), 0) as pool:
        objective = make_objective(pool, sample_clips=3, statistics_batches=0)
        (picture,) = objective.write_samples(tmp_path).values()
    assert picture.shape == (3 * HEIGHT, FRAMES * WIDTH, 3)
