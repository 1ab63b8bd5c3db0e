"""Every shipped preset builds; every tiny one trains, each stage for two steps, from pixels to samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenreel import config
from tokenreel.config import load_preset, preset_names
from tokenreel.pipelines.commands import (
    fit_controls,
    presets,
    tokenize_dataset,
    train_generator,
    train_prior,
    train_tokenizer,
)
from tokenreel.pipelines.requests.program import ShowPresetRequest
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import (
    FitControlsRequest,
    TrainGeneratorRequest,
    TrainPriorRequest,
    TrainTokenizerRequest,
)
from tokenreel.pipelines.training.adversarial_objective import tokenizer_training
from tokenreel.pipelines.training.run_folder import read_metrics
from tokenreel.priors.base import levels_of

DATA = "tabletop:?videos=5&frames=16&size=64"
FEW = ["training.validation_clips=1", "training.sample_clips=1"]
GENERATORS = [name for name in preset_names() if "generator" in load_preset(name)]
TOKENS = [name for name in preset_names() if name not in GENERATORS]
TINY = [name for name in TOKENS if name.endswith("-tiny")]
WITH_CONTROLS = [name for name in TOKENS if "-tiny-" in name]  # a tiny preset whose prior has controls


def _dvdgan(generator: int, spatial: int, temporal: int) -> dict[str, int]:
    return {"generator": generator, "discriminators.spatial": spatial, "discriminators.temporal": temporal}


def _inbetween(generator: int, video: int, image: int) -> dict[str, int]:
    return {"generator": generator, "discriminators.video": video, "discriminators.image": image}


SIZES = {  # parameters; the papers' sizes are counted in the presets' comments
    "ccvs-bair-paper": {"tokenizer": 25_275_639, "prior": 304_492_544},
    "ccvs-bair-paper-end": {"tokenizer": 25_275_639, "prior": 304_559_104},
    "ccvs-bair-paper-state": {"tokenizer": 25_275_639, "prior": 304_758_784},
    "ccvs-bair64-paper": {"tokenizer": 22_292_539, "prior": 304_492_544},
    "ccvs-drums-paper": {"tokenizer": 7_113_771, "prior": 306_608_128},
    "ccvs-kinetics-paper": {"tokenizer": 22_292_539, "prior": 335_949_824},
    "dvdgan-bair-fp-paper": _dvdgan(607_825_275, 153_185_025, 161_456_385),
    "dvdgan-kinetics-fp-paper": _dvdgan(820_161_915, 153_185_025, 161_456_385),
    "dvdgan-kinetics-paper": _dvdgan(401_627_459, 154_411_777, 162_683_137),
    "dvdgan-kinetics-paper-128": _dvdgan(231_527_235, 87_356_449, 88_522_849),
    "dvdgan-kinetics-paper-256": _dvdgan(245_686_083, 98_565_409, 99_731_809),
    "dvdgan-kinetics-paper-48": _dvdgan(401_627_459, 154_411_777, 162_683_137),
    "dvdgan-kinetics-paper-48-128": _dvdgan(231_527_235, 87_356_449, 88_522_849),
    "dvdgan-ucf101-paper": _dvdgan(231_467_355, 86_589_985, 87_756_385),
    "inbetween-bair-paper": _inbetween(14_382_019, 11_057_985, 3_715_419),
    "inbetween-kth-paper": _inbetween(14_373_825, 11_049_793, 3_713_165),
    "inbetween-ucf101-paper": _inbetween(14_382_019, 11_057_985, 3_715_419),
    "gpt-bair-paper": {"prior": 304_492_544},
    "lvt-bair-paper": {"tokenizer": 3_553_795, "prior": 49_872_384},
    "lvt-bair-paper-adamw": {"tokenizer": 3_553_795, "prior": 49_872_384},
    "lvt-bair-paper-key": {"tokenizer": 3_553_795, "prior": 41_500_160},
    "lvt-bair-paper-kmeans": {"tokenizer": 3_553_795, "prior": 49_872_384},
    "lvt-bair-paper-relative": {"tokenizer": 3_553_795, "prior": 33_095_168},
    "lvt-bair-paper-spatial": {"tokenizer": 3_553_795, "prior": 50_394_880},
    "lvt-bair-paper-spatiotemporal": {"tokenizer": 3_553_795, "prior": 59_830_528},
    "lvt-kinetics-paper": {"tokenizer": 4_866_051, "prior": 49_872_384},
    "lvt-kinetics-paper-spatial": {"tokenizer": 4_866_051, "prior": 50_394_880},
    "lvt-kinetics-paper-spatiotemporal": {"tokenizer": 4_866_051, "prior": 59_830_528},
    "video-vqvae-kinetics-paper": {"tokenizer": 3_635_203, "prior.top": 316_200_256, "prior.bottom": 425_042_432},
}


@pytest.mark.parametrize("name", [name for name in preset_names() if "-paper" in name])
def test_a_paper_preset_has_the_size_that_its_comment_counts(name: str) -> None:
    assert presets.run(ShowPresetRequest(name=name))["parameters"] == SIZES[name]


def test_given_frames_of_the_papers() -> None:
    """In training CCVS learns all frames (equation 8), LVT all but the first; validation is as in their tables."""
    papers = {name: load_preset(name)["training"]["prior"] for name in TOKENS if "-paper" in name}
    found = {name: (prior.get("given_frames"), prior.get("validation_given_frames")) for name, prior in papers.items()}
    special = {
        "ccvs-kinetics-paper": (0, 5),
        "ccvs-drums-paper": (0, 15),
        "video-vqvae-kinetics-paper": (None, None),  # those that its tokenizer encodes alone
    }
    assert found == {name: special.get(name, (int(name.startswith("lvt")), 1)) for name in papers}


def test_paper_presets_learn_from_all_frames_of_a_video() -> None:
    """Stage one at any start, LVT's from 32 images of as many videos, though its tokens are those of 16-frame clips."""
    for name in preset_names():
        preset = load_preset(name)
        if "-paper" in name and "tokenizer" in preset:
            training = tokenizer_training(preset["training"]["tokenizer"])
            images = (1, 32) if name.startswith("lvt") else (None, training.batch)
            assert (training.random_start, training.clip_frames, training.batch) == (True, *images), name
            assert preset["data"]["frames"] == 16


def test_lvt_presets_tokenize_whole_videos() -> None:
    """Clips without overlap would leave frames 16 to 29 of BAIR's 30 unseen by the prior."""
    for name in ("lvt-bair-paper", "lvt-kinetics-paper"):
        comment = (Path(config.__file__).parent / f"pipelines/presets/{name}.yaml").read_text().split("\n\n")[0]
        (line,) = (line for line in comment.splitlines() if "tokenize-dataset" in line)
        assert "--whole-videos" in line.split()


def test_the_kmeans_preset_differs_from_the_paper_in_its_quantizer_alone() -> None:
    paper, other = load_preset("lvt-bair-paper"), load_preset("lvt-bair-paper-kmeans")
    quantizers = [preset["tokenizer"]["quantizer"] for preset in (paper, other)]
    assert [quantizer.pop("init", "uniform") for quantizer in quantizers] == ["uniform", "kmeans"]
    assert [quantizer.pop("revive_below", 0) for quantizer in quantizers] == [0, 0.05]
    assert other == paper


@pytest.mark.parametrize(
    ("name", "width"),
    [("ccvs-kinetics-paper", 128), ("ccvs-bair64-paper", 128), ("ccvs-bair-paper", 64), ("ccvs-drums-paper", 64)],
)
def test_discriminators_of_ccvs_have_the_widths_of_the_published_scripts(name: str, width: int) -> None:
    training = tokenizer_training(load_preset(name)["training"]["tokenizer"])
    for discriminator in (training.image_discriminator, training.temporal_discriminator):
        assert discriminator is not None
        assert discriminator.width == width


def test_batches_of_the_papers_largest_priors_are_accumulated_from_ones_that_fit_a_gpu() -> None:
    """Tables 4 to 6 of Predicting Video with VQVAE: batches of 512 and 32, on many chips."""
    training = load_preset("video-vqvae-kinetics-paper")["training"]["prior"]
    for level, batch, largest in (("top", 512, 32), ("bottom", 32, 8)):
        assert training[level]["batch"] == batch
        assert training[level]["batch"] / training[level]["accumulate"] <= largest


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_preset_trains_every_stage_that_it_has(name: str, tmp_path: Path) -> None:
    runs = [tmp_path / "tokenizer"]
    train_tokenizer.run(TrainTokenizerRequest(preset=name, assignments=FEW, data=DATA, out=runs[0], steps=2, workers=0))
    tokenize_dataset.run(
        TokenizeRequest(tokenizer=str(runs[0]), data=DATA, out=tmp_path / "cache", allow_collapsed=True)
    )
    for level in levels_of(load_preset(name)["prior"]):
        runs.append(tmp_path / f"prior-{level}")
        flags = {"preset": name, "level": level, "steps": 2}
        train_prior.run(TrainPriorRequest(assignments=FEW, cache=tmp_path / "cache", out=runs[-1], **flags))
    for run in runs:
        (losses,) = [line for line in read_metrics(run / "metrics.jsonl") if "learning_rate" in line]
        assert losses["step"] == 2
        assert (run / "model.safetensors").is_file()


@pytest.mark.parametrize("name", [name for name in GENERATORS if "-tiny" in name])
def test_a_tiny_preset_trains_its_generator(name: str, tmp_path: Path) -> None:
    request = TrainGeneratorRequest(
        preset=name,
        assignments=[*FEW, "training.batch=2", "training.statistics_batches=1"],
        data=DATA,
        out=tmp_path,
        steps=2,
        workers=0,
    )
    train_generator.run(request)
    (losses,) = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "learning_rate" in line]
    assert losses["step"] == 2
    assert (tmp_path / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def context_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("runs") / "tokenizer"
    train_tokenizer.run(
        TrainTokenizerRequest(preset="ccvs-tabletop-tiny", assignments=FEW, data=DATA, out=out, steps=1, workers=0)
    )
    return str(out)


@pytest.mark.parametrize("name", WITH_CONTROLS)
def test_a_preset_with_controls_fits_them_and_trains_its_prior(
    name: str, context_tokenizer: str, tmp_path: Path
) -> None:
    controls = None
    if "controls" in load_preset(name):
        controls = str(tmp_path / "controls")
        fit_controls.run(FitControlsRequest(preset=name, data=DATA, out=Path(controls)))
    flags = {"tokenizer": context_tokenizer, "controls": controls, "allow_collapsed": True}
    tokenize_dataset.run(TokenizeRequest(data=DATA, out=tmp_path / "cache", **flags))
    summary = train_prior.run(
        TrainPriorRequest(preset=name, assignments=FEW, cache=tmp_path / "cache", out=tmp_path / "run", steps=1)
    )
    assert summary["bits_per_code_without_controls"] > 0
