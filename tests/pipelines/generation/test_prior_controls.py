"""Priors with controls, on a cache whose next frame is determined by the state but not by earlier frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import END, END_STEP, Framing, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.metrics.likelihood import bits_per_code, permute_streams
from tokenreel.pipelines.commands import sample, train_prior
from tokenreel.pipelines.generation.given_tokens import given_tokens
from tokenreel.pipelines.requests.generation import SampleRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest
from tokenreel.pipelines.training.prior_objective import PriorObjective, PriorTrainingConfig, sample_subsets
from tokenreel.priors.base import Prior, build_prior
from tokenreel.priors.sampling.sliding_window import WindowSpan
from tokenreel.priors.sampling.video import _Sampler
from tokenreel.sample_random import SampleRandom

K, CLIPS, STEPS = 7, 1021, 5  # codebook size, clips, frames of a clip
SPEC = TokenSpec(
    (
        StreamSpec("video", (STEPS, 1, 2), K),
        StreamSpec("state", (STEPS, 1, 1), K, role="control", unconditional_token=K),
        StreamSpec("class", (1, 1, 1), 3, stride=STEPS, role="control", unconditional_token=3),
    ),
    STEPS,
    Framing(8, 16),
)
MODEL = "type: gpt, depth: 1, width: 32, heads: 2"
TRAINING = "training={batch: 16, learning_rate: 0.01, validation_clips: 64, sample_clips: 2, threads: 1, %s}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each token is the sum of its frame's state and its column; the class is the first state modulo 3."""
    path = tmp_path_factory.mktemp("data") / "codes.tokens"
    state = np.random.default_rng(3).integers(0, K, (CLIPS, STEPS, 1, 1, 1))
    tokens = {"video": (state + np.arange(2)[:, None]) % K, "state": state, "class": state[:, :1] % 3}
    sources = [{"id": f"{i}", "split": "validation" if i % 2 else "train"} for i in range(CLIPS)]
    write_token_file(path, SPEC, tokens, "foreign-of-a-test", sources, kind="codes")
    return path


def train(
    cache: Path, out: Path, controls: str, steps: int = 4, more: str = "", model: str = MODEL, **flags: Any
) -> dict[str, Any]:
    assignments = [f"prior={{{model}, controls: [{controls}]}}", TRAINING % more]
    return train_prior.run(
        TrainPriorRequest(assignments=assignments, cache=cache, out=out, steps=steps, device="cpu", **flags)
    )


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("run") / "prior"
    return out, train(cache, out, "state, class", steps=150, more="drop_controls: 0.3")


def test_the_state_lowers_bits_per_code_and_the_state_of_another_clip_raises_it(
    cache: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    """The state is worth log2 7 bits per frame to the prior. Only tokens of the level are scored."""
    out, scores = trained
    assert scores["bits_per_code"] < 0.2
    assert scores["bits_per_code_without_controls"] == pytest.approx(np.log2(K) / 2, abs=0.4)
    assert scores["bits_per_code_unigram"] == pytest.approx(np.log2(K), abs=0.1)
    prior, tokens = Prior.from_pretrained(out), TokenCache.open(cache)
    codes = {n: torch.from_numpy(c).long() for n, c in tokens.read(tokens.rows("validation")[:64]).items()}
    given = prior.given_frames(1) | prior.given_streams(["state"])
    found = bits_per_code(prior, [codes], given)
    assert found.bits_per_code == pytest.approx(scores["bits_per_code"], rel=1e-4)
    assert set(found.by_stream) == {"video"}
    others = bits_per_code(prior, permute_streams([codes], ["state"]), given)
    assert others.bits_per_code > scores["bits_per_code_without_controls"]


def test_samples_follow_given_and_sampled_states(
    cache: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    for controls in (None, ["class"]):
        out = tmp_path / f"{controls}"
        sample.run(
            SampleRequest(
                prior=[str(trained[0])],
                cache=cache,
                out=out,
                num=23,
                given_frames=1,
                seed=1,
                given_controls=controls,
            )
        )
        sampled, original = TokenCache.open(out), TokenCache.open(cache)
        codes, clips = sampled.read(sampled.rows()), original.read([s["row"] for s in sampled.plan["videos"]])
        follows = codes["video"] == (codes["state"] + np.arange(2)[:, None]) % K
        assert follows.mean() > 0.8  # by chance 1 / 7
        assert np.array_equal(codes["state"], clips["state"]) == (controls is None)
        assert np.array_equal(codes["state"][:, 0], clips["state"][:, 0]), "the first state belongs to the given frame"
        assert np.array_equal(codes["class"], clips["class"])
        assert sampled.provenance["given_controls"] == (controls or ["class", "state"])


@pytest.fixture(scope="module")
def control_prior(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A control prior: samples states given a class, and no frames."""
    out, model = tmp_path_factory.mktemp("run") / "control-prior", MODEL + ", controls_only: true"
    return out, train(
        cache, out, "state, class", steps=150, more="drop_controls: 0.3, validation_given_frames: 0", model=model
    )


def test_a_control_prior_is_scored_on_the_controls_that_it_samples(control_prior: tuple[Path, dict[str, Any]]) -> None:
    """The class determines the first of five states modulo 3, which leaves three, two or two of 7 states."""
    _, scores = control_prior
    first = 3 / 7 * np.log2(3) + 4 / 7
    assert scores["bits_per_code"] == pytest.approx((4 * np.log2(K) + first) / 5, abs=0.1)
    assert scores["bits_per_code_without_controls"] == pytest.approx(np.log2(K), abs=0.1)


@pytest.mark.parametrize("reverse", [False, True])
def test_states_sampled_by_a_control_prior_condition_the_frames(
    cache: Path,
    trained: tuple[Path, dict[str, Any]],
    control_prior: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    reverse: bool,
) -> None:
    chain = [str(control_prior[0]), str(trained[0])]
    flags: dict[str, Any] = {
        "num": 41,
        "given_frames": 0,
        "frames": 7,
        "seed": 1,
        "guidance": 2.0,
        "given_controls": ["class"],
    }
    sample.run(SampleRequest(prior=chain[::-1] if reverse else chain, cache=cache, out=tmp_path / "out", **flags))
    sampled = TokenCache.open(tmp_path / "out")
    codes = sampled.read(sampled.rows())
    assert ((codes["state"][:, 0] % 3 == codes["class"][:, 0]).mean()) > 0.8  # by chance about 1 / 3
    follows = codes["video"] == (codes["state"] + np.arange(2)[:, None]) % K
    assert follows[:, :STEPS].mean() > 0.5  # by chance 1 / 7
    assert len(np.unique(codes["state"][:, 0])) > 3, "states must be sampled, not copied"


def test_given_states_of_a_control_prior_are_not_guided(
    cache: Path, trained: tuple[Path, dict[str, Any]], control_prior: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Only the class was dropped in training, so guidance treats the first states like all others."""
    prior, codes = Prior.from_pretrained(control_prior[0]), TokenCache.open(cache).read([0, 1])
    given = given_tokens([prior], codes, 2, ["class"])
    assert {name: tensor.shape[1] for name, tensor in given.items()} == {"state": 2, "class": 1}
    sampler = _Sampler(prior, None, 0, torch.arange(2))
    assert not sampler.given_controls(given, WindowSpan(0, 0, STEPS)).any()
    chain, flags = [str(control_prior[0]), str(trained[0])], {"num": 2, "given_frames": 1, "seed": 1}
    sample.run(SampleRequest(prior=chain, cache=cache, out=tmp_path / "out", guidance=2.0, **flags))
    assert TokenCache.open(tmp_path / "out").provenance["given_controls"] == ["class"], (
        "the control prior samples the states"
    )
    with pytest.raises(ConfigError, match="--given-controls state: a control prior samples it"):
        sample.run(SampleRequest(prior=chain, cache=cache, out=tmp_path / "state", given_controls=["state"], **flags))


def test_a_control_prior_needs_a_prior_that_it_conditions(
    cache: Path, control_prior: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    train(cache, tmp_path / "plain", "class")
    spec = dataclasses.replace(
        SPEC,
        streams=(SPEC.streams[0], dataclasses.replace(SPEC.streams[1], codebook_size=K + 1, unconditional_token=K + 1)),
    )
    other = tmp_path / "other"
    section = {"type": "gpt", "depth": 1, "width": 8, "heads": 1, "controls": ["state"]}
    build_prior(section, spec).save_pretrained(other)
    flags: dict[str, Any] = {"num": 1, "given_frames": 0, "seed": 1}
    for priors, message in (
        (
            [control_prior[0], tmp_path / "plain"],
            "the control 'state', which a control prior samples, conditions no other",
        ),
        ([control_prior[0], control_prior[0], tmp_path / "plain"], "two control priors sample the control 'state'"),
        ([control_prior[0]], "conditions no other prior"),
        ([control_prior[0], other], "different controls, or on clips of different lengths"),
    ):
        with pytest.raises(ConfigError, match=message):
            sample.run(
                SampleRequest(prior=[str(prior) for prior in priors], cache=cache, out=tmp_path / "out", **flags)
            )
    assert not (tmp_path / "out").exists()


def test_a_longer_video_takes_the_states_of_the_clip_as_far_as_they_go(
    cache: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    flags = {
        "num": 3,
        "given_frames": 0,
        "frames": 8,
        "seed": 1,
        "window_stride": 2,
        "guidance": 2.0,
        "top_k_of": {"state": 1},
    }
    sample.run(SampleRequest(prior=[str(trained[0])], cache=cache, out=tmp_path / "out", **flags))
    sampled, original = TokenCache.open(tmp_path / "out"), TokenCache.open(cache)
    codes, clips = sampled.read(sampled.rows()), original.read([s["row"] for s in sampled.plan["videos"]])
    assert codes["video"].shape[1] == codes["state"].shape[1] == 8
    assert np.array_equal(codes["state"][:, :STEPS], clips["state"])
    assert sampled.provenance["guidance"] == 2.0


def test_the_end_frame_is_taken_from_the_clip(cache: Path, tmp_path: Path) -> None:
    """Given the end, the last sampled frame is that of the clip, which nothing else determines."""
    more = "drop_controls: 0.1, given_frames: 3, validation_given_frames: 3, schedule: cosine"
    train(cache, tmp_path / "prior", "end", steps=400, more=more)
    for frames in (STEPS, 4):
        out = tmp_path / str(frames)
        sample.run(
            SampleRequest(
                prior=[str(tmp_path / "prior")], cache=cache, out=out, num=41, given_frames=3, frames=frames, seed=1
            )
        )
        sampled, original = TokenCache.open(out), TokenCache.open(cache)
        codes, clips = sampled.read(sampled.rows()), original.read([s["row"] for s in sampled.plan["videos"]])
        assert set(codes) == {"video"}
        agree = (codes["video"] == clips["video"][:, :frames]).mean((0, 2, 3, 4))
        assert agree[-1] > 0.35  # by chance 1 / 7, as the frame before it
        assert frames == 4 or agree[3] < 0.4


def test_an_explicit_end_frame_takes_precedence_over_the_clips_own(cache: Path) -> None:
    """As with --end: `tokens` then hold the first frames only."""
    prior = build_prior({"type": "gpt", "depth": 1, "width": 8, "heads": 1, "controls": ["end"]}, SPEC)
    codes = TokenCache.open(cache).read([0, 1])
    end = np.full((2, 1, 1, 2, 1), 3)
    given = given_tokens([prior], {"video": codes["video"][:, :1], END: end}, 1, ["end"], frames=8)
    assert given[END].tolist() == end.tolist()
    assert given[END_STEP].flatten().tolist() == [7, 7]
    own = given_tokens([prior], codes, 1, ["end"], frames=4)
    assert np.array_equal(own[END][:, 0], codes["video"][:, 3])


def test_a_resumed_run_exports_the_same_bytes(cache: Path, tmp_path: Path) -> None:
    more = "drop_controls: 0.4, checkpoint_every: 3, keep_checkpoints: 9"
    train(cache, tmp_path / "reference", "state, end", steps=7, more=more)
    start = str(tmp_path / "reference/checkpoints/step_00000003")
    train(cache, tmp_path / "resumed", "state, end", steps=7, more=more, resume=start)
    reference, resumed = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("reference", "resumed"))
    assert reference == resumed


def objective(cache: Path, controls: tuple[str, ...], **training: Any) -> PriorObjective:
    tokens = TokenCache.open(cache)
    section = {"type": "gpt", "depth": 1, "width": 8, "heads": 1, "controls": controls}
    config = PriorTrainingConfig(**{"given_frames": 2, **training})
    return PriorObjective(build_prior(section, tokens.spec), tokens, config, torch.device("cpu"))


def test_dropped_controls_and_end_steps_depend_on_the_seed_and_the_sample_only(cache: Path) -> None:
    tested = objective(cache, ("state", "class", "end"), drop_controls=0.25, seed=5)
    rows, samples = np.arange(64) % 8 * 2, np.arange(1000, 1064)
    together = tested.batch(rows, samples)
    separate = [tested.batch(rows[i : i + 1], samples[i : i + 1]) for i in range(64)]
    for name, codes in together.items():
        assert torch.equal(codes, torch.cat([clip[name] for clip in separate]))
    unconditional = {
        name: (codes == tested.prior.spec.stream(name).codebook_size).flatten(1) for name, codes in together.items()
    }
    assert all(torch.equal(mask.all(1), mask.any(1)) for mask in unconditional.values())
    dropped = unconditional[END].all(1)
    assert torch.equal(dropped, unconditional[END_STEP].all(1))
    controls = torch.stack([unconditional["state"].all(1), unconditional["class"].all(1), dropped], 1)
    assert 6 <= controls.any(1).sum() <= 26  # 16 expected, 3 standard deviations
    assert len(controls.unique(dim=0)) > 4, "one and several controls must be dropped"
    assert len(together[END_STEP].view(8, 8).unique(dim=0)) == 8, (
        "a row that is read again must get other random numbers"
    )
    steps = together[END_STEP].flatten()[~dropped]
    assert steps.unique().tolist() == [2, 3, 4]  # after the two given frames
    kept = together["video"][~dropped]
    assert torch.equal(together[END][~dropped][:, 0], kept[torch.arange(len(kept)), steps])
    other = objective(cache, ("state", "class", "end"), drop_controls=0.25, seed=6).batch(rows, samples)
    assert not torch.equal(other[END_STEP], together[END_STEP])


@pytest.mark.parametrize(("given", "first"), [(0, 1), (2, 2)])
def test_end_frames_of_training_do_not_depend_on_validation(cache: Path, given: int, first: int) -> None:
    tested = objective(cache, ("end",), given_frames=given, validation_given_frames=4)
    steps = tested.batch(np.arange(64) % 8 * 2, np.arange(64))[END_STEP]
    assert steps.unique().tolist() == list(range(first, STEPS))


@pytest.mark.parametrize("members", [1, 3])
def test_every_subset_of_controls_is_dropped_equally_often(members: int) -> None:
    p, count = 0.3, 70_000
    subsets = sample_subsets((np.arange(count) + 0.5) / count, p, members)
    found, counts = np.unique(subsets, axis=0, return_counts=True)
    assert len(found) == 2**members
    assert counts[0] == 49_000, "none"
    assert np.abs(counts[1:] - p * count / (2**members - 1)).max() <= 1


@pytest.mark.parametrize("parts", [3, 11])
def test_parts_of_the_held_out_clips_give_what_all_give(cache: Path, parts: int) -> None:
    """Uneven parts, and more parts than clips."""
    tested = objective(cache, ("state",), drop_controls=0.5, validation_clips=7)
    with torch.no_grad():
        whole = tested.validate([tested.score(0, 1)])
        shared = tested.validate([tested.score(part, parts) for part in range(parts)])
    assert shared.keys() == whole.keys()
    assert shared == pytest.approx(whole, rel=1e-6)


def test_micro_steps_share_the_mean_over_the_tokens_of_a_step(cache: Path) -> None:
    """Though their clips lack different controls."""
    tested = objective(cache, ("state", "end"), drop_controls=0.5, batch=6)
    tested.begin_step(3)

    def loss(samples: np.ndarray) -> float:
        random = SampleRandom(0, samples, torch.device("cpu"))
        return tested.losses("prior", tested.batch(samples % CLIPS, samples), random)["nats_per_code"].item()

    step = np.arange(18, 24)
    parts = [loss(samples) for samples in step.reshape(3, 2)]
    assert np.mean(parts) == pytest.approx(loss(step), rel=1e-5)
    free = tested.prior.flatten(tested.batch(step % CLIPS, step)) != K
    assert len(set(free.sum(1).tolist())) == 2
    assert tested.predicted_per_clip == (free & ~tested.given).sum() / 6


def test_dropped_states_are_not_part_of_the_loss(cache: Path) -> None:
    """Equation 8 includes frame-level controls in the loss; an unconditional token is not predicted."""
    tested = objective(cache, ("state",), drop_controls=0.5, batch=4)
    tested.begin_step(0)
    random = SampleRandom(0, np.arange(4), torch.device("cpu"))
    batch = tested.batch(np.arange(4), np.arange(4))
    log_probs = tested.prior.log_prob(
        batch,
        torch.zeros(4, len(tested.clips.given), dtype=torch.bool).logical_or(tested.clips.given)
        | (tested.prior.flatten(batch) == K),
    )
    codes = sum(3 * 2 + (0 if (state == K).all() else 5) for state in batch["state"])
    assert {int((state == K).all()) for state in batch["state"]} == {0, 1}
    torch.testing.assert_close(tested.losses("prior", batch, random)["nats_per_code"], -log_probs.sum() / codes)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"given_controls": ["sound"]},
            r"--given-controls sound: .* not trained with it \(it has: class, state\)",
        ),
        ({"guidance": 2.0, "given_controls": []}, r"guidance \(=2.0\) needs a given control"),
        ({"top_k_of": {"stat": 3}}, "did you mean 'state'"),
    ],
)
def test_wrong_controls_are_refused_before_a_folder_is_created(
    cache: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sample.run(
            SampleRequest(
                prior=[str(trained[0])],
                cache=cache,
                out=tmp_path / "out",
                num=1,
                given_frames=1,
                seed=0,
                **flags,
            )
        )
    assert not (tmp_path / "out").exists()


def test_a_prior_that_was_never_trained_without_a_control_needs_it(
    cache: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The saved prior records it, and sampling is refused before a folder is created."""
    assert Prior.from_pretrained(trained[0]).trained_without_controls
    train(cache, tmp_path / "prior", "state, class", steps=1)
    assert not Prior.from_pretrained(tmp_path / "prior").trained_without_controls
    flags: dict[str, Any] = {"num": 1, "given_frames": 1, "seed": 0}
    for more, message in (
        ({"given_controls": ["state"]}, "control 'class' is not given, and this prior was never trained without it"),
        ({"guidance": 2.0}, r"guidance \(=2.0\) needs a prior that was also trained without its controls"),
    ):
        with pytest.raises(ConfigError, match=message):
            sample.run(
                SampleRequest(prior=[str(tmp_path / "prior")], cache=cache, out=tmp_path / "out", **flags, **more)
            )
    assert not (tmp_path / "out").exists()
    sample.run(
        SampleRequest(
            prior=[str(tmp_path / "prior")], cache=cache, out=tmp_path / "out", given_controls=["class"], **flags
        )
    )


def test_windows_without_the_end_frame_need_a_prior_that_was_trained_without_it(cache: Path, tmp_path: Path) -> None:
    train(cache, tmp_path / "prior", "end", steps=1)
    flags: dict[str, Any] = {"num": 1, "given_frames": 1, "seed": 0}
    with pytest.raises(ConfigError, match=f"at step 12, is not in every window of {STEPS} frames of a video of 13"):
        sample.run(
            SampleRequest(prior=[str(tmp_path / "prior")], cache=cache, out=tmp_path / "out", frames=13, **flags)
        )
    assert not (tmp_path / "out").exists()


def test_a_cache_without_the_control_that_the_prior_needs_is_refused(
    cache: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    tokens = TokenCache.open(cache)
    codes, sources = tokens.read(tokens.rows()), tokens.plan["videos"]
    bare, other = tmp_path / "bare", tmp_path / "other"
    write_token_file(bare, SPEC, {"video": codes["video"]}, "foreign-of-a-test", sources, kind="codes")
    with pytest.raises(ConfigError, match=r"controls \(=\['state'\]\) .* lack \['state'\]"):
        train(bare, tmp_path / "run", "state")
    run = [str(trained[0])]
    flags = {"num": 1, "given_frames": 1, "seed": 0}
    with pytest.raises(ConfigError, match=r"needs the control 'class', which the tokens lack"):
        sample.run(SampleRequest(prior=run, cache=bare, out=tmp_path / "out", **flags))
    sample.run(SampleRequest(prior=run, cache=bare, out=tmp_path / "out", given_controls=[], **flags))
    wider = TokenSpec((*SPEC.streams[:2], StreamSpec("class", (1, 1, 1), 4, role="control")), STEPS, SPEC.framing)
    write_token_file(other, wider, codes, "foreign-of-a-test", sources, kind="codes")
    with pytest.raises(ConfigError, match=r"needs the control .*codebook size 3.*the tokens is .*codebook size 4"):
        sample.run(SampleRequest(prior=run, cache=other, out=tmp_path / "out2", **flags))


def test_drop_controls_out_of_range_or_without_controls_is_refused(cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"drop_controls \(=0.1\) requires controls with an unconditional token"):
        objective(cache, (), drop_controls=0.1)
    with pytest.raises(ConfigError, match=r"drop_controls \(=1.0\) must be in \[0, 1\)"):
        objective(cache, ("state",), drop_controls=1.0)
