"""A cascade of two priors, one for each level of a hierarchical tokenizer, from pixels to pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.video.writer import write_video
from tokenreel.errors import ConfigError
from tokenreel.pipelines.commands import decode, generate, sample, tokenize_dataset, train_prior, train_tokenizer
from tokenreel.pipelines.common.progress import Progress
from tokenreel.pipelines.requests.decoding import DecodeRequest
from tokenreel.pipelines.requests.generation import GenerateRequest, SampleRequest
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest, TrainTokenizerRequest
from tokenreel.pipelines.training.run_folder import read_metrics

DATA = "tabletop:?videos=9&frames=8&size=16"
TOKENIZER = [
    "data={frames: 8, framing: {height: 16, width: 16}, validation: 0.3}",
    "tokenizer={type: hierarchical-vqvae, hidden: 8, residual: 8, blocks: 1, latent: 4, given_frames: 4}",
    "tokenizer.quantizer={type: vq, codebook_size: 13, init: kmeans}",
]
SIZES = "embedding: 8, hidden: 12, residual: 12, layers: 1, heads: 2, kernel: 3, attention_every: 1"
CONDITION = "condition_hidden: 8, condition_residual: 4, condition_blocks: 1"
PRIORS = [f"prior.{level}={{type: pixelcnn-{level}, {SIZES}, {CONDITION}}}" for level in ("top", "bottom")]
TRAINING = ["training={batch: 2, validation_clips: 2, sample_clips: 1, threads: 1}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, a cache of its tokens and a prior for each level, all trained for a few steps."""
    folder = tmp_path_factory.mktemp("hierarchy")
    settings = [*TOKENIZER, *TRAINING]
    train_tokenizer.run(
        TrainTokenizerRequest(assignments=settings, data=DATA, out=folder / "tokenizer", steps=3, workers=0)
    )
    tokenizer, cache = str(folder / "tokenizer"), folder / "cache"
    tokenize_dataset.run(TokenizeRequest(tokenizer=tokenizer, data=DATA, out=cache, allow_collapsed=True))
    for level in ("top", "bottom"):
        settings = [*PRIORS, *TRAINING]  # the four frames that the tokenizer encodes alone are given
        train_prior.run(TrainPriorRequest(assignments=settings, cache=cache, out=folder / level, level=level, steps=2))
    return folder


def sample_tokens(folder: Path, out: Path, levels: tuple[str, ...] = ("top", "bottom"), given: int = 4) -> TokenCache:
    priors = [str(folder / level) for level in levels]
    sample.run(
        SampleRequest(prior=priors, cache=folder / "cache", out=out, split=None, num=3, given_frames=given, seed=5)
    )
    return TokenCache.open(out)


def test_samples_hold_both_levels_and_begin_with_the_given_frames(folder: Path, tmp_path: Path) -> None:
    sampled = sample_tokens(folder, tmp_path / "samples")
    codes, cache = sampled.read(sampled.rows()), TokenCache.open(folder / "cache")
    sources = [int(source["row"]) for source in sampled.plan["videos"]]
    for name, original in cache.read(sources).items():
        given_name = name.removesuffix("_given") + "_given"
        given = original if name == given_name else cache.read(sources)[given_name]
        assert np.array_equal(codes[name][:, : given.shape[1]], given)
    assert [codes[name].shape[1] for name in ("top", "bottom")] == [2, 4]
    decode.run(
        DecodeRequest(
            tokens=tmp_path / "samples", tokenizer=str(folder / "tokenizer"), out=tmp_path / "videos", format="npy"
        )
    )
    assert np.load(tmp_path / "videos" / "000002.npy").shape == (8, 16, 16, 3)


def test_priors_may_be_named_in_any_order(folder: Path, tmp_path: Path) -> None:
    one, other = (
        sample_tokens(folder, tmp_path / "one"),
        sample_tokens(folder, tmp_path / "other", levels=("bottom", "top")),
    )
    for name, codes in one.read(one.rows()).items():
        assert np.array_equal(codes, other.read(other.rows())[name])


@pytest.mark.parametrize(
    ("levels", "given", "message"),
    [
        (("bottom",), 4, r"is conditioned on \['top'\]"),
        (("top",), 4, r"no prior predicts \['bottom'\]"),
        (("top", "top", "bottom"), 4, r"two priors predict \['top'\]"),
        (("top", "bottom"), 2, "must be 4"),
        (("top", "bottom"), 3, "must be 4"),
    ],
)
def test_incomplete_cascades_and_wrong_numbers_of_given_frames_are_refused(
    folder: Path, tmp_path: Path, levels: tuple[str, ...], given: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sample_tokens(folder, tmp_path / "samples", levels, given)
    assert not (tmp_path / "samples").exists()


def test_generate_continues_the_given_frames_of_a_video_only(folder: Path, tmp_path: Path) -> None:
    frames = tabletop_clip(TabletopConfig(16, 16, frames=8), 3).frames
    write_video(tmp_path / "clip.npy", frames, 10.0)
    frames[4:] = 255 - frames[4:]
    write_video(tmp_path / "other.npy", frames, 10.0)
    priors = [str(folder / level) for level in ("top", "bottom")]
    for name in ("clip", "other"):
        video = tmp_path / f"{name}.npy"
        flags = {"num": 1, "given_frames": 4, "seed": 0, "format": "npy"}
        generate.run(
            GenerateRequest(
                prior=priors, tokenizer=str(folder / "tokenizer"), video=video, out=tmp_path / name, **flags
            )
        )
    clips = [np.load(tmp_path / name / "000000.npy") for name in ("clip", "other")]
    assert clips[0].shape == (8, 16, 16, 3)
    assert np.array_equal(*clips), "later frames than the given ones affected the continuation"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"given_frames": 1}, "must be 4"),
        ({"given_frames": 9}, "between 0 and"),
        ({"frames": 4}, r"--frames \(=4\) must be 8"),
    ],
)
def test_generate_refuses_wrong_numbers_of_frames_before_it_creates_a_folder(
    folder: Path, tmp_path: Path, flags: dict[str, int], message: str
) -> None:
    write_video(tmp_path / "clip.npy", tabletop_clip(TabletopConfig(16, 16, frames=8), 3).frames, 10.0)
    priors, settings = (
        [str(folder / level) for level in ("top", "bottom")],
        {"num": 1, "given_frames": 4, "seed": 0},
    )
    with pytest.raises(ConfigError, match=message):
        generate.run(
            GenerateRequest(
                prior=priors,
                tokenizer=str(folder / "tokenizer"),
                video=tmp_path / "clip.npy",
                out=tmp_path / "out",
                **{**settings, **flags},
            )
        )
    assert not (tmp_path / "out").exists()


def test_tokens_per_forward_do_not_depend_on_the_batch(folder: Path, tmp_path: Path) -> None:
    priors = [str(folder / level) for level in ("top", "bottom")]
    flags = {"num": 3, "given_frames": 4, "seed": 0, "split": None}
    for batch in (1, 2, 3):
        sampled = sample.run(
            SampleRequest(prior=priors, cache=folder / "cache", out=tmp_path / str(batch), batch=batch, **flags)
        )
        assert sampled["tokens_per_forward"] == 1


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("prior.layers=7", r"prior.LEVEL.layers"),
        ("training.prior.tpo={steps: 3}", "tpo: unknown key"),
        ("prior=null", "exclude each other"),
    ],
)
def test_settings_that_no_level_has_are_refused(folder: Path, tmp_path: Path, assignment: str, message: str) -> None:
    settings = [*PRIORS, *TRAINING, assignment]
    with pytest.raises(ConfigError, match=message):
        train_prior.run(
            TrainPriorRequest(assignments=settings, cache=folder / "cache", out=tmp_path / "run", level="top", steps=1)
        )


def test_a_gpt_is_refused_for_tokens_that_depend_on_later_frames(folder: Path, tmp_path: Path) -> None:
    settings = ["prior={type: gpt, depth: 1, width: 8, heads: 2}", *TRAINING]
    with pytest.raises(ConfigError, match="depend on later frames"):
        train_prior.run(TrainPriorRequest(assignments=settings, cache=folder / "cache", out=tmp_path / "run", steps=1))


def test_level_is_required_if_there_are_several(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--level"):
        train_prior.run(
            TrainPriorRequest(assignments=[*PRIORS, *TRAINING], cache=folder / "cache", out=tmp_path / "run", steps=1)
        )
    single = ["prior={type: gpt, depth: 1, width: 8, heads: 2}", *TRAINING]
    with pytest.raises(ConfigError, match="prior: expected a mapping"):
        train_prior.run(
            TrainPriorRequest(
                assignments=["prior=null"], cache=folder / "cache", out=tmp_path / "run", level="top", steps=1
            )
        )
    with pytest.raises(ConfigError, match="a single prior"):
        train_prior.run(
            TrainPriorRequest(assignments=single, cache=folder / "cache", out=tmp_path / "run", level="top", steps=1)
        )


def test_scores_are_those_of_the_level(folder: Path) -> None:
    """With 13 codes a barely trained prior needs about log2 13 bits/code; the counted baselines are logged as well."""
    for level in ("top", "bottom"):
        *_, scores = read_metrics(folder / level / "metrics.jsonl")
        assert scores["validation/given_frames"] == 4
        assert abs(scores["validation/bits_per_code"] - np.log2(13)) < 1.5
        assert scores["validation/bits_per_code_unigram"] < np.log2(13) + 0.2


def test_progress_counts_the_tokens_to_sample(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While they are sampled, and up to the number that there are."""
    bars: list[Counted] = []

    class Counted(Progress):
        def __init__(self, total: int | None, what: str, unit: str, done: int = 0) -> None:
            super().__init__(total, what, unit, done)
            self.total, self.counts = total, list[int]()
            bars.append(self)

        def advance(self, count: int = 1, **values: Any) -> None:
            self.counts.append(count)

    monkeypatch.setattr("tokenreel.pipelines.generation.cascade.Progress", Counted)
    monkeypatch.setattr("tokenreel.priors.sampling.loop.CHOOSE_EVERY", 5)
    sample_tokens(folder, tmp_path / "samples")
    (bar,) = bars
    assert sum(bar.counts) == bar.total
    assert len(bar.counts) > 5
