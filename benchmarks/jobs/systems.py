"""The jobs of `same_results`: every tiny system at 32 x 32 pixels, from its tokenizer to decoded and generated videos.

Each function runs the jobs of one system, and reads what it needs of earlier ones from their folders.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from tokenreel.benchmarks.jobs.results import of_model
from tokenreel.benchmarks.jobs.runner import GIVEN, PRIOR, JobRunner
from tokenreel.config import preset_names
from tokenreel.data.cache.reader import TokenCache
from tokenreel.priors.base import build_prior
from tokenreel.priors.ngram.prior import TemporalBigramPrior, UnigramPrior

# Names of jobs are keys of the records that `compare` reads, and so stay as they are.
SAMPLING = {  # options of sample by name of the job
    "plain": "",
    "draft": "--speculate 4",
    "long": "--frames 13 --window-stride 3",
    "long-draft": "--frames 13 --speculate 3",
    "top-k": "--top-k 5 --temperature 0.8",
    "top-p": "--top-p 0.7",
    "greedy": "--greedy",
    "guided": "--guidance 3",
    "guided-draft": "--guidance 3 --speculate 4",
    "guided-long": "--guidance 2 --frames 13",
    "drawn-controls": "--given-controls none",
    "top-k-of-state": "--top-k-of state=3 --given-controls none",
    "top-k-of-top": "--top-k-of top=5",
    "class": "--given-controls class --guidance 9",
}
DECODING = {  # options of decode: which true frames it uses
    "context": "--context 2 --context-video @videos --given-frames 3",
    "no-context": "--context 0",
    "sample-plain": "--context-video @videos --end @videos",
    "sample-long": "--context-video @videos",
}
ALL_LEARNED = "--set training.given_frames=0"  # as --given-frames 0 needs
NO_GIVEN_FRAMES, TRUE_FIRST_FRAME = "--given-frames 0", "--given-frames 1 --context 2"
WITH_CONTROLS, LEVEL = "--controls @controls", "--level @level"
SUBSCALE = "--set prior.subscale=[8,1,1]"  # slices of one frame, in clips of eight
CONTEXT = "--set tokenizer.context=3"
# With 8 frames the top has 2 steps, and oneDNN's weight gradient of a 3 x 3 x 3 convolution over 2 steps in bf16 reads
# uninitialised memory (torch 2.13, on a processor with avx512_bf16).
LONG_CLIPS = "--set data.frames=16"
TOKENIZERS = {  # name -> preset, and settings that no tiny preset has
    "fsq": ("gpt-tabletop-tiny", "--set 'tokenizer.quantizer={type: fsq, levels: [5, 5, 3]}'"),
    "lfq": ("gpt-tabletop-tiny", "--set 'tokenizer.quantizer={type: lfq, bits: 6}'"),
    "adversarial": (
        "ccvs-tabletop-tiny",
        f"{CONTEXT} --set 'training.tokenizer.image_discriminator={{width: 8}}' "
        "--set 'training.tokenizer.temporal_discriminator={width: 8}' "
        "--set 'training.tokenizer.adversarial={start_step: 1, adaptive: true, r1_every: 2}'",
    ),
}
SUBSCALE_PRIORS = {
    "spatial-key": "--set prior.subscale=[1,2,2] --set prior.kernel=[1,3,3] --set prior.attention=key",
    "spatiotemporal-relative": "--set prior.subscale=[4,2,2] --set prior.kernel=[5,3,3] --set prior.attention=relative",
    "adaptive": f"{SUBSCALE} --set prior.adaptive_input=true --set prior.adaptive_softmax=true "
    "--set prior.cutoffs=[16] --set prior.tied=projections",
}
ALL_CONTROLS = (
    "--set 'controls.sound={type: sound, codebook_size: 8, bands: 4, slices: 1, spectra: 2, rate: 2000, window: 128}'"
)


def presets(jobs: JobRunner) -> None:
    """Settings and sizes of all presets, including those that are not trained here."""
    for name in preset_names():
        jobs.run(f"presets/{name}", "preset", preset=name)


def gpt(jobs: JobRunner) -> None:
    values: dict[str, Any] = {"preset": "gpt-tabletop-tiny", "given": 1, "video": jobs.video}
    values |= first_stage(jobs, "gpt", "", values)
    values["prior"] = jobs.run("gpt/prior", "prior", **values)
    sample(jobs, "gpt", ("plain", "draft", "long", "long-draft", "top-k", "top-p", "greedy"), PRIOR, values)
    jobs.run("gpt/generate", "generate", f"{PRIOR} {GIVEN} --video @video --frames 13", **values)
    values["prior"] = jobs.run("gpt/prior-of-all-frames", "prior", ALL_LEARNED, **values)
    jobs.run("gpt/generate-from-nothing", "generate", f"{PRIOR} {NO_GIVEN_FRAMES}", **values)


def ngram(jobs: JobRunner) -> None:
    """The two counted baselines, fitted as train-prior fits them for comparison."""
    tokens = jobs.work / "gpt/tokens"
    for kind in ("unigram", "temporal-bigram"):
        out = jobs.work / f"counted/{kind}"
        fit(kind, tokens, out)
        jobs.record(f"counted/{kind}", of_model(out, {}))
        sample(jobs, f"counted/{kind}", ("plain", "draft", "long"), PRIOR, {"tokens": tokens, "given": 1, "prior": out})


def fit(kind: str, tokens: Path, out: Path) -> None:
    cache = TokenCache.open(tokens)
    prior = build_prior({"type": kind}, cache.spec)
    assert isinstance(prior, UnigramPrior | TemporalBigramPrior)
    prior.prepare([{name: torch.from_numpy(codes) for name, codes in cache.read(cache.rows("train")).items()}])
    prior.code_fingerprint = cache.code_fingerprint
    out.mkdir(parents=True)
    prior.save_pretrained(out)


def lvt(jobs: JobRunner) -> None:
    values: dict[str, Any] = {"preset": "lvt-tabletop-tiny", "given": 1, "video": jobs.video}
    values |= first_stage(jobs, "lvt", "", values)
    values["prior"] = jobs.run("lvt/prior", "prior", SUBSCALE, **values)
    sample(jobs, "lvt", ("plain", "draft", "long", "top-k"), PRIOR, values)
    jobs.run("lvt/generate", "generate", f"{PRIOR} {GIVEN} --video @video", **values)
    for name, options in SUBSCALE_PRIORS.items():
        values["prior"] = jobs.run(f"lvt-{name}/prior", "prior", options, **values)
        sample(jobs, f"lvt-{name}", ("draft",), PRIOR, values)


def video_vqvae(jobs: JobRunner) -> None:
    values: dict[str, Any] = {"preset": "video-vqvae-tabletop-tiny", "given": 4, "video": jobs.video}
    values |= first_stage(jobs, "video-vqvae", LONG_CLIPS, values)
    for level in ("top", "bottom"):
        values[level] = jobs.run(f"video-vqvae/{level}", "prior", f"{LEVEL} {LONG_CLIPS}", **values, level=level)
    priors = "--prior @top --prior @bottom"
    sample(jobs, "video-vqvae", ("plain", "draft", "top-k", "top-k-of-top"), priors, values)
    jobs.run("video-vqvae/generate", "generate", f"{priors} {GIVEN} --video @video", **values)


def ccvs(jobs: JobRunner) -> None:
    values: dict[str, Any] = {"preset": "ccvs-tabletop-tiny", "given": 1, "video": jobs.video}
    values |= first_stage(jobs, "ccvs", CONTEXT, values)
    jobs.run("ccvs/reconstruct-given", "reconstruct", TRUE_FIRST_FRAME, **values)
    for name in ("context", "no-context"):
        jobs.run(f"ccvs/decode-{name}", "decode", DECODING[name], **values)
    values["prior"] = jobs.run("ccvs/prior", "prior", CONTEXT, **values)
    sample(jobs, "ccvs", ("plain", "draft", "long"), PRIOR, values)
    for name in ("plain", "long"):
        values["tokens"] = jobs.work / f"ccvs/sample-{name}"
        jobs.run(f"ccvs/decode-{name}", "decode", DECODING[f"sample-{name}"], **values)
    jobs.run("ccvs/generate", "generate", f"{PRIOR} {GIVEN} --video @video --frames 11", **values)


def ccvs_end(jobs: JobRunner) -> None:
    values = context_values(jobs, "ccvs-tabletop-tiny-end", "ccvs")
    values["prior"] = jobs.run("ccvs-end/prior", "prior", CONTEXT, **values)
    sample(jobs, "ccvs-end", ("plain", "draft", "guided", "guided-long", "drawn-controls"), PRIOR, values)
    jobs.run("ccvs-end/generate", "generate", f"{PRIOR} {GIVEN} --video @video --end @video", **values)


def ccvs_state(jobs: JobRunner) -> None:
    values = context_values(jobs, "ccvs-tabletop-tiny-state", "ccvs-state")
    values["controls"] = jobs.run("ccvs-state/controls", "controls", **values)
    jobs.run("ccvs-state/tokens", "tokens", WITH_CONTROLS, **values)
    values["prior"] = jobs.run("ccvs-state/prior", "prior", CONTEXT, **values)
    names = ("plain", "draft", "long", "guided", "guided-draft", "drawn-controls", "top-k-of-state")
    sample(jobs, "ccvs-state", names, PRIOR, values)
    values["states"] = states_of(jobs, 8)
    options = f"{PRIOR} {GIVEN} {WITH_CONTROLS} --video @video --states @states --guidance 1.5"
    jobs.run("ccvs-state/generate", "generate", options, **values)


def ccvs_class(jobs: JobRunner) -> None:
    """Classes, states and sounds in one cache; a cascade of a control prior and the prior that it conditions."""
    values = context_values(jobs, "ccvs-tabletop-tiny-class", "ccvs-class")
    values["controls"] = jobs.run("ccvs-class/controls", "controls", ALL_CONTROLS, **values)
    jobs.run("ccvs-class/tokens", "tokens", WITH_CONTROLS, **values)
    values["prior"] = jobs.run("ccvs-class/prior", "prior", f"{CONTEXT} {ALL_CONTROLS}", **values)
    values["frames"] = jobs.work / "ccvs-state/prior"
    sample(jobs, "ccvs-class", ("plain", "class", "long"), f"{PRIOR} --prior @frames", values)
    options = f"{CONTEXT} {ALL_CONTROLS} {ALL_LEARNED} --set prior.controls=[sound]"
    values["prior"] = jobs.run("ccvs-sound/prior", "prior", options, **{**values, "preset": "ccvs-tabletop-tiny-sound"})
    sample(jobs, "ccvs-sound", ("plain", "guided"), PRIOR, values)
    options = f"{PRIOR} {WITH_CONTROLS} {NO_GIVEN_FRAMES} --sound @video"
    jobs.run("ccvs-sound/generate", "generate", options, **values)


def other_tokenizers(jobs: JobRunner) -> None:
    for name, (preset, options) in TOKENIZERS.items():
        tokenizer = jobs.run(f"{name}/tokenizer", "tokenizer", options, preset=preset)
        jobs.run(f"{name}/tokens", "tokens", tokenizer=tokenizer)


def first_stage(jobs: JobRunner, system: str, options: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Trains a tokenizer, writes its cache, decodes it and reconstructs clips. Returns the paths of the first two."""
    tokenizer = jobs.run(f"{system}/tokenizer", "tokenizer", options, **values)
    paths: dict[str, Any] = {
        "tokenizer": tokenizer,
        "tokens": jobs.run(f"{system}/tokens", "tokens", tokenizer=tokenizer),
    }
    jobs.run(f"{system}/decode", "decode", **paths)
    jobs.run(f"{system}/reconstruct", "reconstruct", **paths)
    return paths


def context_values(jobs: JobRunner, preset: str, cache: str) -> dict[str, Any]:
    """Values for a system that shares the tokenizer of `ccvs` and uses the cache of the system `cache`."""
    paths = {"tokenizer": jobs.work / "ccvs/tokenizer", "tokens": jobs.work / cache / "tokens", "video": jobs.video}
    return {"preset": preset, "given": 1, **paths}


def sample(jobs: JobRunner, system: str, names: Iterable[str], priors: str, values: Mapping[str, Any]) -> None:
    for name in names:
        jobs.run(f"{system}/sample-{name}", "sample", f"{priors} {GIVEN} {SAMPLING[name]}", **values)


def states_of(jobs: JobRunner, frames: int) -> Path:
    """Writes the states of the first video's first frames as a table that `generate` reads. Returns its path."""
    with (jobs.work / "videos/states.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.pop("file_name").endswith(jobs.video.name)][:frames]
    path = jobs.work / "states.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


SYSTEMS = (presets, gpt, ngram, lvt, video_vqvae, ccvs, ccvs_end, ccvs_state, ccvs_class, other_tokenizers)
