"""A run is a function of its configuration, even if killed and resumed; so is the order of samples, for any number of
processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import numpy as np
import pytest
import safetensors.torch
import torch
from launching import run_processes
from toy_training import CONFIG, NEVER, ROWS, ToyObjective, identity, train_toy

from tokenreel.errors import CheckpointError, ConfigError, UserError
from tokenreel.pipelines.common import progress
from tokenreel.pipelines.training.distributed import Processes
from tokenreel.pipelines.training.loop import Trainer
from tokenreel.pipelines.training.losses import NonFiniteLoss
from tokenreel.pipelines.training.run_folder import RunFolder, read_metrics
from tokenreel.sample_random import SampleRandom

SCRIPT = Path(__file__).with_name("toy_training.py")


def launch(
    out: Path, processes: int, die_at: int = NEVER, nan_at: int = NEVER, signal_at: int = NEVER, validation_s: float = 0
) -> subprocess.CompletedProcess[str]:
    """Trains the toy in new processes; the arguments are those of ToyObjective."""
    done = run_processes(processes, SCRIPT, out, str(die_at), str(nan_at), str(signal_at), str(validation_s))
    assert (done.returncode == 0) == (die_at == nan_at == signal_at == NEVER), done.stderr
    return done


def deterministic_metrics(out: Path) -> list[dict[str, float]]:
    """The metrics except times and rates."""
    return [{k: v for k, v in line.items() if "second" not in k} for line in read_metrics(out / "metrics.jsonl")]


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, processes: int) -> None:
    train: Callable[[Path], object] = train_toy if processes == 1 else partial(launch, processes=processes)
    train(tmp_path / "reference")
    killed = launch(tmp_path / "killed", processes, die_at=8)
    assert killed.returncode == -signal.SIGKILL or processes > 1
    assert not (tmp_path / "killed/model.safetensors").exists()
    assert (tmp_path / "killed/checkpoints/step_00000006").exists()
    train(tmp_path / "killed")
    reference, resumed = tmp_path / "reference", tmp_path / "killed"
    assert (reference / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    last = f"checkpoints/step_{CONFIG.steps:08d}"
    manifests = [json.loads((run / last / "manifest.json").read_text()) for run in (reference, resumed)]
    assert manifests[0] == manifests[1], "optimizers, averages and codebooks must be equal too"
    assert deterministic_metrics(reference) == deterministic_metrics(resumed)


def test_the_order_of_samples_is_the_same_for_1_2_and_4_processes(tmp_path: Path) -> None:
    config = replace(CONFIG, accumulate=1)
    order = {processes: _samples_of_all(tmp_path, config, processes) for processes in (1, 2, 4)}
    assert order[1] == order[2] == order[4]
    rows = [row for row, _ in order[1][:ROWS]]
    assert sorted(rows) == list(range(ROWS)), "an epoch must contain every row once"
    assert rows != sorted(rows)


def _samples_of_all(tmp_path: Path, config: object, processes: int) -> list[tuple[int, int]]:
    order: list[tuple[int, int]] = []
    for rank in range(processes):
        accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=processes, process_index=rank)
        trainer = Trainer(ToyObjective(CONFIG), config, RunFolder(tmp_path, None), accelerator)  # type: ignore[arg-type]
        for step in range(CONFIG.steps):
            order += zip(
                trainer.training_step.rows(step, 0).tolist(),
                trainer.training_step.samples(step, 0).tolist(),
                strict=True,
            )
    return sorted(order, key=lambda pair: pair[1])


def test_accumulation_does_not_change_the_gradient() -> None:
    """Mean of equal micro batches' means = mean of the batch: three micro steps or one, without randomness."""

    class Plain(ToyObjective):
        def losses(self, update: str, batch: torch.Tensor, random: SampleRandom) -> dict[str, torch.Tensor]:
            self.networks["model"].eval()
            return {"fit": (self.networks["model"](batch) - batch[:, :3]).square().mean()}

    gradients = []
    for accumulate in (1, 3):
        config = replace(CONFIG, accumulate=accumulate, clip_norm=None)
        accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
        trainer = Trainer(Plain(config), config, RunFolder(Path(), None), accelerator)  # type: ignore[arg-type]
        trainer._train_step()
        gradients.append(trainer.objective.networks["model"][0].weight.grad)  # type: ignore[index,union-attr]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_training_lowers_the_loss_and_exports_averaged_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=60, schedule="constant", checkpoint_every=60)
    summary = train_toy(tmp_path, config)
    first, last = [line["train/fit"] for line in deterministic_metrics(tmp_path) if "train/fit" in line][
        :: len(deterministic_metrics(tmp_path)) // 2 - 1
    ][:2]
    assert last < 0.7 * first
    average = safetensors.torch.load_file(tmp_path / "checkpoints/step_00000060/average.safetensors")
    exported = safetensors.torch.load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(exported["0.weight"], average["model.0.weight"], rtol=0, atol=0)
    assert summary["steps"] == 60
    assert summary["error"] < first


def test_a_nan_stops_the_run_names_the_step_and_exports_the_newest_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"judged is nan at step 8.* now holds the model of step 6") as error:
        train_toy(tmp_path, objective=ToyObjective(CONFIG, nan_at=7))
    assert "\n" not in str(error.value)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step_00000003", "step_00000006"]
    assert all(np.isfinite(line["train/judged"]) for line in deterministic_metrics(tmp_path) if "train/judged" in line)
    assert exports_the_average_of(6, tmp_path)


def test_all_processes_stop_if_one_has_a_nan(tmp_path: Path) -> None:
    done = launch(tmp_path, 2, nan_at=7)
    assert "judged is nan at step 8" in done.stderr
    assert "now holds the model of step 6" in done.stderr
    assert exports_the_average_of(6, tmp_path)


def test_a_signal_to_one_process_stops_all_and_a_validation_may_exceed_the_limit_of_collectives(tmp_path: Path) -> None:
    done = launch(tmp_path, 2, signal_at=5, validation_s=4)
    assert "stopped at step 7" in done.stderr, "asked in step 6, answered in step 7"
    steps = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert steps == ["step_00000006", "step_00000007"]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "validation/error" in line] == [4]
    assert exports_the_average_of(7, tmp_path)


def exports_the_average_of(step: int, out: Path) -> bool:
    average = safetensors.torch.load_file(out / f"checkpoints/step_{step:08d}/average.safetensors")
    exported = safetensors.torch.load_file(out / "model.safetensors")
    return all(torch.equal(tensor, average[f"model.{name}"]) for name, tensor in exported.items())


def test_a_stopped_run_exports_the_newest_intact_checkpoint(tmp_path: Path) -> None:
    train_toy(tmp_path, replace(CONFIG, schedule="constant", steps=6))
    (tmp_path / "model.safetensors").unlink()
    damaged = tmp_path / "checkpoints/step_00000006/network_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(NonFiniteLoss, match="now holds the model of step 3"):
        train_toy(tmp_path, replace(CONFIG, schedule="constant"), objective=ToyObjective(CONFIG, nan_at=3))
    assert exports_the_average_of(3, tmp_path)


def test_a_stopped_run_with_only_damaged_checkpoints_reports_both(tmp_path: Path) -> None:
    class Damaging(ToyObjective):
        def begin_step(self, step: int) -> None:
            super().begin_step(step)
            if step == 4:
                (tmp_path / "checkpoints/step_00000003/network_model.safetensors").unlink()

    with pytest.raises(NonFiniteLoss, match=r"judged is nan at step 5.* No model is exported: .* is damaged"):
        train_toy(tmp_path, objective=Damaging(CONFIG, nan_at=4))
    assert not (tmp_path / "model.safetensors").exists()


def test_a_run_stopped_before_its_first_checkpoint_says_so_and_exports_nothing(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match="No model is exported: there is no checkpoint before step 3"):
        train_toy(tmp_path, objective=ToyObjective(CONFIG, nan_at=1))
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_saves_at_the_next_step_and_the_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, name: str
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)

    class Terminated(ToyObjective):
        def batch(self, rows: np.ndarray, samples: np.ndarray) -> torch.Tensor:
            if samples[0] == 4 * self.config.batch:
                os.kill(os.getpid(), number)
            return super().batch(rows, samples)

    train_toy(tmp_path / "reference")
    with pytest.raises(KeyboardInterrupt, match="stopped at step 5"):
        train_toy(tmp_path / "stopped", objective=Terminated(CONFIG))
    assert signal.getsignal(number) == before
    train_toy(tmp_path / "stopped")
    assert (tmp_path / "reference/model.safetensors").read_bytes() == (
        tmp_path / "stopped/model.safetensors"
    ).read_bytes()


def test_a_damaged_newest_checkpoint_is_skipped(tmp_path: Path) -> None:
    train_toy(tmp_path / "reference")
    damaged = tmp_path / "damaged"
    train_toy(damaged)
    weights = damaged / f"checkpoints/step_{CONFIG.steps:08d}/network_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (damaged / "model.safetensors").unlink()
    assert train_toy(damaged)["clips"] == (CONFIG.steps - 9) * CONFIG.batch, "must continue from step 9"
    assert (tmp_path / "reference/model.safetensors").read_bytes() == (damaged / "model.safetensors").read_bytes()


def test_a_complete_run_is_not_trained_again_and_returns_its_scores(tmp_path: Path) -> None:
    first, again = train_toy(tmp_path), train_toy(tmp_path)
    assert again["clips"] == 0
    assert again["error"] == first["error"]


class Scripted(ToyObjective):
    """Its errors at the validations are `ERRORS`, by step."""

    step = CONFIG.steps  # of a run that is complete
    ERRORS: ClassVar[dict[int, float]] = {2: 0.9, 4: 0.5, 6: 0.3, 8: 0.4, 10: 0.6, 11: float("nan")}

    def begin_step(self, step: int) -> None:
        self.step = step + 1

    def validate(self, parts: Sequence[float]) -> dict[str, float]:
        return {"error": self.ERRORS[self.step], "held_out_clips": 3, "held_out_videos": 2}


def test_the_model_of_the_best_validation_is_kept(tmp_path: Path) -> None:
    """With averaged weights, whatever checkpoints are pruned, and also if the run is killed while it is replaced."""
    config = replace(CONFIG, validate_every=2, checkpoint_every=2, keep_checkpoints=1)
    out = tmp_path / "run"
    summary = train_toy(out, config, objective=Scripted(config))
    assert summary["best"] == {"path": str(out / "best"), "step": 6, "error": 0.3}
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_00000011"]
    train_toy(tmp_path / "reference", replace(config, keep_checkpoints=9), objective=Scripted(config))
    average = safetensors.torch.load_file(tmp_path / "reference/checkpoints/step_00000006/average.safetensors")
    kept = safetensors.torch.load_file(out / "best/model.safetensors")
    assert all(torch.equal(tensor, average[f"model.{name}"]) for name, tensor in kept.items())
    (out / "best").rename(out / ".best-old")
    (out / ".best-new").mkdir()
    assert train_toy(out, config, objective=Scripted(config))["best"]["step"] == 6
    assert not list(out.glob(".best-*"))


def test_the_best_model_is_the_same_after_a_kill_and_goes_back_with_the_run(tmp_path: Path) -> None:
    config = replace(CONFIG, validate_every=2, checkpoint_every=4, keep_checkpoints=9, schedule="constant")

    class Killed(Scripted):
        def begin_step(self, step: int) -> None:
            super().begin_step(step)
            if step == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path, config, objective=Killed(config))
    killed = (tmp_path / "best/model.safetensors").read_bytes()
    assert train_toy(tmp_path, config, objective=Scripted(config))["best"]["step"] == 6
    assert (tmp_path / "best/model.safetensors").read_bytes() == killed
    back = str(tmp_path / "checkpoints/step_00000004")
    shorter = train_toy(tmp_path, replace(config, steps=4), back, objective=Scripted(config))
    assert "best" not in shorter
    assert (tmp_path / "set_aside_1/best/model.safetensors").read_bytes() == killed


def test_progress_lines_have_the_loss_and_the_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The losses of the first update, without the critic's; rate and time to go come from the count of steps."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "_quiet", False)
    train_toy(tmp_path, replace(CONFIG, validate_every=4))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train:")]
    logged = {line["step"]: line for line in read_metrics(tmp_path / "metrics.jsonl") if "train/fit" in line}
    loss = f"loss {logged[10]['train/fit'] + logged[10]['train/judged']:.4g}"
    assert re.fullmatch(rf"train: 10/11 step \[\d\d:\d\d<\d\d:\d\d, .*step.*\], {loss}, error \S+", lines[9])
    assert "loss" not in lines[0]


def test_scores_of_other_held_out_clips_are_not_compared(tmp_path: Path) -> None:
    config = replace(CONFIG, validate_every=2, schedule="constant", steps=6)
    train_toy(tmp_path, config, objective=Scripted(config))

    class More(Scripted):
        def validate(self, parts: Sequence[float]) -> dict[str, float]:
            return {**super().validate(parts), "held_out_clips": 5}

    longer = replace(config, steps=10)
    assert train_toy(tmp_path, longer, objective=More(longer))["best"] == {
        "path": str(tmp_path / "best"),
        "step": 8,
        "error": 0.4,
    }


def test_a_complete_run_that_is_made_longer_equals_a_long_one_bit_for_bit(tmp_path: Path) -> None:
    config = replace(CONFIG, schedule="constant", steps=20)
    train_toy(tmp_path / "reference", replace(config, steps=40))
    train_toy(tmp_path / "longer", config)
    assert train_toy(tmp_path / "longer", replace(config, steps=40))["clips"] == 20 * CONFIG.batch
    manifests = [
        (tmp_path / run / "checkpoints/step_00000040/manifest.json").read_bytes() for run in ("reference", "longer")
    ]
    assert manifests[0] == manifests[1]


def test_a_run_whose_rate_has_decayed_is_made_longer_from_before_the_decay(tmp_path: Path) -> None:
    """Its checkpoint of that step is not pruned, though only one is kept; what came after it is set aside."""
    config = replace(CONFIG, schedule="constant", steps=20, decay_steps=4, keep_checkpoints=1)
    train_toy(tmp_path / "reference", replace(config, steps=40))
    train_toy(tmp_path / "longer", config)
    checkpoints = tmp_path / "longer/checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step_00000016", "step_00000020"]
    train_toy(tmp_path / "again", config)
    assert train_toy(tmp_path / "again", config)["clips"] == 0, "complete with the same settings"
    longer = replace(config, steps=40)
    with pytest.raises(CheckpointError, match=r"differ from step 16 on: give an earlier checkpoint, or .*longer for"):
        train_toy(tmp_path / "new", longer, resume=str(checkpoints / "step_00000020"))
    assert train_toy(tmp_path / "new", longer, resume=str(tmp_path / "longer"))["resumed_from_step"] == 16
    assert train_toy(tmp_path / "longer", longer)["clips"] == 24 * CONFIG.batch
    assert (tmp_path / "longer/set_aside_1/checkpoints/step_00000020").exists()
    manifests = [
        (tmp_path / run / "checkpoints/step_00000040/manifest.json").read_bytes() for run in ("reference", "longer")
    ]
    assert manifests[0] == manifests[1]
    shutil.rmtree(tmp_path / "again/checkpoints/step_00000016")
    with pytest.raises(CheckpointError, match=r"differ from step 16 on, and no checkpoint from before is left"):
        train_toy(tmp_path / "again", replace(config, steps=40))


@pytest.mark.parametrize(("decay_steps", "resumed"), [(8, 3), (0, 0)])
def test_what_a_killed_run_made_at_other_rates_is_set_aside(tmp_path: Path, decay_steps: int, resumed: int) -> None:
    """Its best model and its samples, though it has no checkpoint of after the change of rates, or none at all."""

    class Sampled(ToyObjective):
        def write_samples(self, folder: Path) -> dict[str, Any]:
            safetensors.torch.save_file(self.networks["model"].state_dict(), folder / "model")
            return {}

    class Killed(Sampled):
        def begin_step(self, step: int) -> None:
            self.step = step
            if step == 7:
                raise KeyboardInterrupt

        def validate(self, parts: Sequence[float]) -> dict[str, float]:
            return {"error": -float(self.step)}

    every = {"checkpoint_every": NEVER, "validate_every": 2, "sample_every": 2}
    config = replace(CONFIG, schedule="constant", warmup=0, decay_steps=decay_steps, **every)
    longer = replace(config, steps=12, decay_steps=9 if resumed else 11)
    train_toy(tmp_path / "reference", longer, objective=Sampled(longer))
    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path / "killed", config, objective=Killed(config))
    summary = train_toy(tmp_path / "killed", longer, objective=Sampled(longer))
    assert summary.get("resumed_from_step", 0) == resumed
    for file in ("best/model.safetensors", "samples/step_00000006/model", "model.safetensors"):
        assert (tmp_path / "reference" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file
    assert {path.name for path in (tmp_path / "killed/set_aside_1").iterdir()} >= {"best", "samples", "metrics.jsonl"}


def test_fewer_steps_than_the_run_has_are_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, schedule="constant", steps=6)
    train_toy(tmp_path, config)
    with pytest.raises(CheckpointError, match=r"has 6 steps, more than training\.steps \(=4\)"):
        train_toy(tmp_path, replace(config, steps=4))
    shorter = train_toy(tmp_path, replace(config, steps=4), resume=str(tmp_path / "checkpoints/step_00000003"))
    assert shorter["steps"] == 4


def test_an_out_folder_with_other_content_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=3)
    train_toy(tmp_path / "run", config)
    with pytest.raises(CheckpointError, match=r"started with training\.batch = 12, not 24"):
        train_toy(tmp_path / "run", replace(config, batch=24))
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_toy(tmp_path / "run", config, resume="never")
    with pytest.raises(CheckpointError, match=r"steps = 3, not 5 \(every learning rate .* --init-from"):
        train_toy(tmp_path / "run", replace(config, steps=5))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty and is not a run"):
        train_toy(tmp_path / "other", config)
    with pytest.raises(CheckpointError, match="neither a run folder nor a checkpoint"):
        train_toy(tmp_path / "new", config, resume=str(tmp_path / "other"))
    assert not (tmp_path / "new").exists()


def test_resume_accepts_a_checkpoint_of_another_folder(tmp_path: Path) -> None:
    train_toy(tmp_path / "reference")
    branch = train_toy(tmp_path / "branch", resume=str(tmp_path / "reference/checkpoints/step_00000009"))
    assert branch["clips"] == (CONFIG.steps - 9) * CONFIG.batch
    assert (tmp_path / "reference/model.safetensors").read_bytes() == (
        tmp_path / "branch/model.safetensors"
    ).read_bytes()


def test_going_back_to_an_earlier_checkpoint_keeps_it_and_what_came_after(tmp_path: Path) -> None:
    """As `--resume RUN/checkpoints/step_00000003`, stopped at step 5 and continued."""

    class Stopped(ToyObjective):
        def begin_step(self, step: int) -> None:
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    config = replace(CONFIG, keep_checkpoints=9)
    train_toy(tmp_path, config)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    config = replace(CONFIG, keep_checkpoints=1)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 5"):
        train_toy(tmp_path, config, str(tmp_path / "checkpoints/step_00000003"), Stopped(config))
    names = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert names == ["step_00000003", "step_00000005"]
    aside = tmp_path / "set_aside_1"
    assert [p.name[-2:] for p in sorted((aside / "checkpoints").iterdir())] == ["06", "09", "11"]
    assert (aside / "metrics.jsonl").read_bytes() == before
    assert train_toy(tmp_path, config)["clips"] == (CONFIG.steps - 5) * CONFIG.batch


@pytest.mark.parametrize("out", ["run", "branch"])
def test_a_checkpoint_that_was_set_aside_is_resumed_as_any_other(tmp_path: Path, out: str) -> None:
    """In the run itself, which so goes forward again, and in a new folder."""
    config = replace(CONFIG, keep_checkpoints=9, schedule="constant")
    train_toy(tmp_path / "run", config)
    expected = (tmp_path / "run/model.safetensors").read_bytes()
    train_toy(tmp_path / "run", replace(config, steps=3), str(tmp_path / "run/checkpoints/step_00000003"))
    assert (tmp_path / "run/model.safetensors").read_bytes() != expected
    resumed = train_toy(tmp_path / out, config, str(tmp_path / "run/set_aside_1/checkpoints/step_00000009"))
    assert (resumed["resumed_from_step"], resumed["clips"]) == (9, (CONFIG.steps - 9) * CONFIG.batch)
    assert (tmp_path / out / "model.safetensors").read_bytes() == expected


def test_a_checkpoint_that_was_set_aside_keeps_the_rates_it_was_made_at(tmp_path: Path) -> None:
    """The rate of steps 17 to 20 had decayed, which it does not in the run that is made longer."""
    config = replace(CONFIG, schedule="constant", steps=20, decay_steps=4, keep_checkpoints=9)
    longer = replace(config, steps=40)
    train_toy(tmp_path / "run", config)
    train_toy(tmp_path / "run", longer)
    aside = tmp_path / "run/set_aside_1"
    with pytest.raises(CheckpointError, match=r"differ from step 16 on: give an earlier checkpoint$"):
        train_toy(tmp_path / "new", longer, resume=str(aside / "checkpoints/step_00000020"))
    assert train_toy(tmp_path / "new", config, resume=str(aside))["resumed_from_step"] == 20


def test_a_run_killed_in_its_validation_has_a_checkpoint_and_validates_when_it_resumes(tmp_path: Path) -> None:
    class Killed(ToyObjective):
        def score(self, part: int, parts: int) -> float:
            raise KeyboardInterrupt

    config = replace(CONFIG, validate_every=6)
    train_toy(tmp_path / "reference", config)
    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path / "killed", config, objective=Killed(config))
    assert (tmp_path / "killed/checkpoints/step_00000006").exists()
    train_toy(tmp_path / "killed", config)
    assert deterministic_metrics(tmp_path / "reference") == deterministic_metrics(tmp_path / "killed")


@pytest.mark.parametrize("main", [True, False])
def test_an_error_of_any_process_in_its_part_of_validation_is_raised_in_all(
    main: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`flags`: what this process tells the others; one of them always has an error."""
    accelerator: Any = SimpleNamespace(num_processes=3, process_index=1 - main, is_main_process=main)
    processes, flags = Processes(accelerator), list[bool]()
    monkeypatch.setattr(processes, "start_any", lambda flag: flags.append(flag) or (lambda: True))
    with pytest.raises(UserError, match="stopped with another process"):
        processes.gather(lambda: 5)
    with pytest.raises(MemoryError):
        processes.gather(partial(_raise, MemoryError()))
    assert flags == [False, True]


def _raise(error: Exception) -> None:
    raise error


def test_samples_are_complete_or_written_again_when_the_run_resumes(tmp_path: Path) -> None:
    """Killed amid them; the kill leaves no other file either."""

    class Killed(ToyObjective):
        def write_samples(self, folder: Path) -> NoReturn:
            (folder / "first").write_text("1")
            raise SystemExit

    class Whole(ToyObjective):
        def write_samples(self, folder: Path) -> dict[str, Any]:
            for name in ("first", "second"):
                (folder / name).write_text("1")
            return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenreel.data.cache.files.shutil.rmtree", lambda *_, **__: None)  # as a kill would
        patch.setattr("tokenreel.data.cache.files.os.getpid", lambda: 2**22 + 1)  # of nobody
        with pytest.raises(SystemExit):
            train_toy(tmp_path, objective=Killed(CONFIG))
    assert not (tmp_path / "samples/step_00000005").exists()
    assert len(list((tmp_path / "samples").iterdir())) == 1
    train_toy(tmp_path, objective=Whole(CONFIG))
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        f"step_{step:08d}" for step in (5, 10, 11)
    ]
    assert all(len(list(path.iterdir())) == 2 for path in (tmp_path / "samples").iterdir())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_is_an_error_that_says_what_to_lower(tmp_path: Path, error: Exception) -> None:
    class Large(ToyObjective):
        def batch(self, rows: np.ndarray, samples: np.ndarray) -> torch.Tensor:
            raise error

    with pytest.raises(UserError, match=r"out of memory in training: in a new folder lower training\.batch"):
        train_toy(tmp_path, objective=Large(CONFIG))


def test_a_batch_that_processes_cannot_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch \(=12\) must be a multiple of .* \(=5 x 3\)"):
        CONFIG.micro_batch(5)


def test_a_data_set_that_changed_is_refused(tmp_path: Path) -> None:
    train_toy(tmp_path, replace(CONFIG, steps=3))
    changed = replace(identity(replace(CONFIG, steps=3)), data_identity="other")
    with pytest.raises(CheckpointError, match=r"started on other data \(toy, not other\)"):
        RunFolder.open(tmp_path, changed)
